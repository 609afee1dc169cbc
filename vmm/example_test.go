package vmm_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/trace"
	"github.com/detvm/detvm/vmm"
)

// embedded is a boot file of the images package: loaded when a machine boots.
func embedded(f *images.File) vmm.Blob {
	return vmm.Blob{Size: f.Size, Digest: f.SHA256, Load: f.Load}
}

// builtin is a configuration with the built-in kernel and userland on the software engine.
func builtin(args ...string) vmm.Config {
	kernel, err := images.GuestKernel()
	if err != nil {
		log.Fatal(err)
	}
	archive, err := images.DefaultInitramfs()
	if err != nil {
		log.Fatal(err) // not built: make build
	}
	return vmm.Config{
		Engine: vmm.EngineSoft,
		Kernel: vmm.Kernel{Image: embedded(kernel.File), Cmdline: images.KernelCommandLine, Layout: vmm.KernelLayout{
			CurrentTask: kernel.Symbols.CurrentTask, CommOffset: kernel.Symbols.CommOffset, TGIDOffset: kernel.Symbols.TGIDOffset}},
		Initramfs: embedded(archive),
		Command:   vmm.Command{Args: args},
	}
}

func Example() {
	c := builtin("sh", "-c", "date; cat")
	c.Stdin, c.Stdout = strings.NewReader("hello\n"), os.Stdout
	result, err := vmm.Run(context.Background(), c)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Outcome, result.ExitCode)
	// Output:
	// Thu Jan  1 00:00:00 UTC 2026
	// hello
	// exited 0
}

// record runs a command and returns its trace.
func record(args ...string) (*trace.Reader, vmm.Config) {
	c := builtin(args...)
	var file bytes.Buffer
	c.Record = &vmm.Recording{W: &file}
	if _, err := vmm.Run(context.Background(), c); err != nil {
		log.Fatal(err)
	}
	r, err := trace.Open(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		log.Fatal(err)
	}
	return r, c
}

func ExampleReplay() {
	r, c := record("sh", "-c", "head -c 4 /dev/urandom | hexdump; sleep 60")
	result, err := vmm.Replay(context.Background(), r, vmm.ReplayConfig{Kernel: c.Kernel.Image, Initramfs: c.Initramfs})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Identical, result.Events == r.NumEvents())
	// Output: true true
}

func ExampleReplay_partial() {
	r, c := record("echo", "hi")
	var last trace.Kind
	result, err := vmm.Replay(context.Background(), r, vmm.ReplayConfig{
		Kernel: c.Kernel.Image, Initramfs: c.Initramfs,
		Until: func(_ uint64, e *trace.Event) bool {
			last = e.Kind
			return e.Kind == trace.KindStdout
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Identical, result.Complete, last, result.At != nil)
	// Output: true false stdout true
}

func ExampleRun_events() {
	r, _ := record("echo", "hi")
	var err error
	for _, e := range r.All(&err) {
		if e.Kind == trace.KindStdout {
			fmt.Printf("%s wrote %q\n", e.Kind, e.Data)
		}
	}
	if err != nil {
		log.Fatal(err)
	}
	// Output: stdout wrote "hi\n"
}
