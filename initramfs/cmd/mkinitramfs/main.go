// Command mkinitramfs writes an initramfs archive: the base one from the agent alone, or with -userland the default one.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/detvm/detvm/initramfs"
	"github.com/klauspost/compress/zstd"
)

func main() {
	agent := flag.String("agent", "", "the agent program, which becomes /init")
	userland := flag.String("userland", "", "the multi-call program of the default userland")
	commands := flag.String("commands", "", "file that lists the userland's commands, one a line")
	out := flag.String("o", "", "where to write: FILE.zst, compressed, and FILE.sha256, the digest of the uncompressed archive")
	flag.Parse()
	if err := run(*agent, *userland, *commands, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitramfs:", err)
		os.Exit(1)
	}
}

func run(agent, userland, commands, out string) error {
	program, err := os.ReadFile(agent)
	if err != nil {
		return err
	}
	records := initramfs.Base(program)
	if userland != "" {
		binary, err := os.ReadFile(userland)
		if err != nil {
			return err
		}
		list, err := os.ReadFile(commands)
		if err != nil {
			return err
		}
		more, err := initramfs.Userland(binary, strings.Fields(string(list)))
		if err != nil {
			return err
		}
		records = append(records, more...)
	}
	archive, err := initramfs.Bytes(records)
	if err != nil {
		return err
	}
	compressed, err := compress(archive)
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	if err := os.WriteFile(out+".zst", compressed, 0o644); err != nil {
		return err
	}
	return os.WriteFile(out+".sha256", fmt.Appendf(nil, "%x\n", sha256.Sum256(archive)), 0o644)
}

func compress(b []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return w.EncodeAll(b, nil), w.Close() // whole, so that the frame says how much it holds
}
