package vmm

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/detvm/detvm/devices/virtio"
	"github.com/detvm/detvm/guestagent"
	"github.com/detvm/detvm/trace"
)

// virtioSlot is one virtio-mmio window of the machine model (docs/machine.md, "Interrupt lines").
type virtioSlot struct {
	name    string
	index   int
	irq     int
	present func(*Machine) bool
}

const (
	virtioBase   = 0xd0000000
	virtioWindow = 0x1000
)

var (
	always      = func(*Machine) bool { return true }
	virtioSlots = [...]virtioSlot{
		{"console", 0, 5, always},
		{"rng", 1, 9, always},
		{"disk0", 2, 10, func(m *Machine) bool { return m.config.Root != nil }},
		{"disk1", 3, 11, func(m *Machine) bool { return m.config.Data != nil }},
	}
)

func (s virtioSlot) base() uint64 { return virtioBase + uint64(s.index)*virtioWindow }

// virtioELCR is the level-triggered lines of a machine.
func (m *Machine) virtioELCR() uint16 {
	var mask uint16
	for _, s := range virtioSlots {
		if s.present(m) {
			mask |= 1 << s.irq
		}
	}
	return mask
}

// The console's ports by number (docs/machine.md, "virtio-console ports").
const (
	portConsole = iota
	portControl
	portStdin
	portStdout
	portStderr
)

// assembleVirtio makes the virtio devices that the configuration asks for.
func (m *Machine) assembleVirtio() error {
	m.console = virtio.NewConsole([]virtio.ConsolePort{
		portConsole: {Name: "console", Console: true},
		portControl: {Name: guestagent.PortControl, OnOutput: m.controlOutput, InputLimit: controlInputLimit},
		portStdin:   {Name: guestagent.PortStdin, InputLimit: stdinInputLimit},
		portStdout:  {Name: guestagent.PortStdout, OnOutput: func(p []byte) { m.output(trace.KindStdout, p) }},
		portStderr:  {Name: guestagent.PortStderr, OnOutput: func(p []byte) { m.output(trace.KindStderr, p) }},
	})
	m.rng = virtio.NewRNG()
	m.part("pic", m.pic)
	m.part("pit", m.pit)
	m.part("timer", m.timer)
	m.part("rtc", m.rtc)
	m.part("uart", m.uart)
	m.part("clockpage", &m.clockPage)
	for _, s := range virtioSlots {
		id := m.bus.device(s.name) // numbers do not depend on what is present
		if !s.present(m) {
			continue
		}
		dev, err := m.virtioDevice(s.name, id)
		if err != nil {
			return err
		}
		t := virtio.NewTransport(dev, m.mem, m.pic.Line(s.irq))
		m.bus.mapMMIO(id, s.base(), virtioWindow, t)
		m.part(s.name, t)
	}
	return nil
}

// Bounds on what waits for the guest to take it, in bytes.
const (
	controlInputLimit = 4 << 20
	stdinInputLimit   = 4 << 20
)

func (m *Machine) virtioDevice(name string, id uint16) (virtio.Device, error) {
	switch name {
	case "console":
		return m.console, nil
	case "rng":
		return m.rng, nil
	case "disk0":
		disk, err := m.disk(m.config.Root)
		if err != nil {
			return nil, err
		}
		return virtio.NewBlock(disk, m.blockOptions(id, disk, &m.rootReads, true)), nil
	}
	disk, err := m.disk(m.config.Data)
	m.data = disk
	if err != nil {
		return nil, err
	}
	return virtio.NewBlock(disk, m.blockOptions(id, disk, &m.dataReads, false)), nil
}

func (m *Machine) disk(d *Disk) (*virtio.Disk, error) {
	disk, err := virtio.NewDisk(d.Base, int64(d.Size), 0)
	if err != nil {
		return nil, usagef("disk %s: %w", d.Name, err)
	}
	disk.SetBaseDigest(d.Digest)
	return disk, nil
}

// blockOptions logs what the guest reads and writes.
func (m *Machine) blockOptions(id uint16, disk *virtio.Disk, reads *extents, readOnly bool) virtio.BlockOptions {
	name := m.bus.names[id]
	return virtio.BlockOptions{
		ReadOnly: readOnly,
		ID:       name,
		OnRead: func(sector uint64, n int) {
			m.diskUsed = true
			if !m.logging {
				return
			}
			reads.add(sector*virtio.SectorSize, uint64(n))
			p := make([]byte, n) // read once more: the device copies straight into the guest
			if _, err := disk.ReadAt(p, int64(sector*virtio.SectorSize)); err != nil {
				return // the device reports it to the guest and to OnError
			}
			m.deferDisk(trace.KindDiskRead, id, sector, p)
		},
		OnWrite: func(sector uint64, p []byte) {
			m.diskUsed = true
			if !m.logging {
				return
			}
			if len(p) < virtio.BlockSize { // the rest of the block came from the base
				at := sector * virtio.SectorSize &^ (virtio.BlockSize - 1)
				reads.add(at, min(virtio.BlockSize, uint64(disk.Size())-at))
			}
			m.deferDisk(trace.KindDiskWrite, id, sector, p)
		},
		OnError: func(err error) {
			message := fmt.Sprintf("%s: %v", name, err)
			if errors.Is(err, trace.ErrNotStored) { // a replay reads what the recorded run did not: that is a difference
				m.end(OutcomeHostFailure, message)
				return
			}
			m.hostFailed(OutcomeHostFailure, message)
		},
	}
}

// deferDisk notes a disk access by its digest.
func (m *Machine) deferDisk(kind trace.Kind, id uint16, sector uint64, p []byte) {
	sum := sha256.Sum256(p)
	m.deferred = append(m.deferred, trace.Event{Kind: kind, Device: id, Addr: sector, Value: uint64(len(p)), Write: kind == trace.KindDiskWrite, Data: sum[:]})
}

// send queues input for a port of the guest's console. A guest that lets it pile up has stopped reading; that ends the run rather than losing input.
func (m *Machine) send(port int, p []byte) {
	if n := m.console.Send(port, p); n < len(p) {
		m.end(OutcomeAgentFailure, "the agent in the guest does not take its input")
	}
}
