// Command guest is what the benchmarks run inside the guest: loads of known size, and a power-off for peers that have no agent.
package main

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// tableWords is the size of the table that the loop stores into: 256 KiB.
const tableWords = 32 << 10

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: guest loop N | poweroff")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "loop":
		n, err := strconv.ParseUint(os.Args[2], 10, 64)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		fmt.Println(loop(n))
	case "poweroff":
		// On a PC without ACPI a restart ends an emulator that was told not to reboot.
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

// loop stores n xorshift numbers into a table and returns a checksum.
func loop(n uint64) uint64 {
	var table [tableWords]uint64
	x := uint64(88172645463325252)
	for range n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		table[x%tableWords] += x
	}
	var sum uint64
	for _, v := range table {
		sum += v
	}
	return sum
}
