package vmm

import (
	"fmt"
	"sort"

	"github.com/detvm/detvm/devices"
)

// window is a range of ports or guest-physical addresses that one device answers.
type window struct {
	base, size uint64
	id         uint16 // index of the device in bus.names: Event.Device
	handler    devices.Handler
}

// bus finds the device for an access. There are two address spaces: ports and memory.
type bus struct {
	names []string
	ports []window
	mmio  []window
}

// noDevice is the Event.Device of an access that nobody answered.
const noDevice = 0

func newBus() *bus { return &bus{names: []string{"none"}} }

// device registers a name and returns its number. Numbers follow the order of registration, which is fixed for a machine model.
func (b *bus) device(name string) uint16 {
	b.names = append(b.names, name)
	return uint16(len(b.names) - 1)
}

func (b *bus) mapPorts(id uint16, base, size uint64, h devices.Handler) {
	b.ports = insertWindow(b.ports, window{base, size, id, h})
}

func (b *bus) mapMMIO(id uint16, base, size uint64, h devices.Handler) {
	b.mmio = insertWindow(b.mmio, window{base, size, id, h})
}

func insertWindow(ws []window, w window) []window {
	i := sort.Search(len(ws), func(i int) bool { return ws[i].base >= w.base })
	if i > 0 && ws[i-1].base+ws[i-1].size > w.base || i < len(ws) && w.base+w.size > ws[i].base {
		panic(fmt.Sprintf("vmm: device windows overlap at %#x", w.base))
	}
	ws = append(ws, window{})
	copy(ws[i+1:], ws[i:])
	ws[i] = w
	return ws
}

func findWindow(ws []window, addr, n uint64) *window {
	i := sort.Search(len(ws), func(i int) bool { return ws[i].base > addr })
	if i == 0 {
		return nil
	}
	w := &ws[i-1]
	if addr-w.base >= w.size || n > w.size-(addr-w.base) {
		return nil
	}
	return w
}

// access performs one access of len(p) bytes and returns the number of the device that answered. Reads of nothing are all ones.
func access(ws []window, addr uint64, p []byte, write bool) uint16 {
	w := findWindow(ws, addr, uint64(len(p)))
	switch {
	case w == nil && !write:
		for i := range p {
			p[i] = 0xff
		}
		return noDevice
	case w == nil:
		return noDevice
	case write:
		w.handler.Write(addr-w.base, p)
	default:
		w.handler.Read(addr-w.base, p)
	}
	return w.id
}
