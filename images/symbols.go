package images

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/erofs/go-erofs"
)

// ErrNoProgram says that an image has no program with a build ID.
var ErrNoProgram = errors.New("no program in the image has this build ID")

// maxProgram bounds a program that is read for its symbols, in bytes.
const maxProgram = 256 << 20

// Function names the function at an address of a program or library, by the symbol table of that file in the EROFS image r, with the offset in it. buildID, in
// hexadecimal, says which file. It fails with [ErrNoProgram] if there is none, and returns "" for a file without symbols there. The search reads every
// program in the image.
func Function(r io.ReaderAt, buildID string, address uint64) (string, error) {
	root, err := erofs.Open(r)
	if err != nil {
		return "", fmt.Errorf("open the image: %w", err)
	}
	var program *elf.File
	err = fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if program = programWithID(root, path, buildID); program != nil {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("search the image: %w", err)
	}
	if program == nil {
		return "", ErrNoProgram
	}
	symbols, err := program.Symbols()
	if errors.Is(err, elf.ErrNoSymbols) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the program's symbols: %w", err)
	}
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Section != elf.SHN_UNDEF && address-s.Value < s.Size {
			return fmt.Sprintf("%s+%#x", s.Name, address-s.Value), nil
		}
	}
	return "", nil
}

// programWithID opens a file if it is an ELF file with the build ID, else it returns nil.
func programWithID(root fs.FS, path, buildID string) *elf.File {
	f, err := root.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	magic := make([]byte, len(elf.ELFMAG))
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != elf.ELFMAG {
		return nil
	}
	rest, err := io.ReadAll(io.LimitReader(f, maxProgram))
	if err != nil {
		return nil
	}
	program, err := elf.NewFile(bytes.NewReader(append(magic, rest...)))
	if err != nil {
		return nil
	}
	section := program.Section(".note.gnu.build-id")
	if section == nil || section.Size > 1<<10 {
		return nil
	}
	note, err := section.Data()
	const head = 16 // sizes of name and descriptor, type, "GNU\0"
	if err != nil || len(note) < head || hex.EncodeToString(note[head:min(head+int(binary.LittleEndian.Uint32(note[4:])), len(note))]) != buildID {
		return nil
	}
	return program
}
