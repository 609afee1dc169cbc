package trace

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand"
	"strings"
	"testing"
)

func testHeader() *Header {
	return &Header{
		Hash: SHA256, MachineModel: "v1", CPUModel: "detvm-v1", Clock: "instructions", NSPerCount: 1, ScaleNum: 1, ScaleDen: 1,
		StartTime: 1_700_000_000_000_000_000, Seed: []byte("0123456789abcdef"), Version: "test",
		Config: []Setting{{"cmdline", "console=ttyS0"}, {"memory", "268435456"}},
		Inputs: []Input{
			{Role: "kernel", Name: "vmlinux", Size: 5000, Digest: NewDigest(SHA256, testKernel())},
			{Role: "image", Name: "root.erofs", Size: 1 << 20, Digest: NewDigest(SHA256, []byte("an image"))},
		},
		Command: []string{"/bin/sh", "-c", "echo hello"}, Env: []string{"HOME=/", "PATH=/bin"},
		Devices: []string{"none", "pic", "pit", "rtc", "uart", "virtio-console", "virtio-blk"},
	}
}

func testKernel() []byte { return bytes.Repeat([]byte("kernel!?"), 625) }

// bootEvents makes n events that look like a boot and a shell script on the soft engine: UART polling and output, timer MSRs, interrupts with
// their acknowledgements, virtio notifications, halts, some output.
func bootEvents(n int) []Event {
	rng := rand.New(rand.NewSource(1))
	text := []byte(strings.Repeat("[    0.123456] virtio_blk virtio2: [vda] 131072 512-byte logical blocks (67.1 MB/64.0 MiB)\n", 3))
	var events []Event
	var pos, idle uint64
	add := func(step uint64, e Event) {
		pos += step
		e.Position, e.Time = pos, pos+idle
		events = append(events, e)
		if e.Kind == KindHalt {
			idle += e.Value
		}
	}
	const base = 0xffffffff81000000
	task, pid := "swapper/0", uint32(1)
	events = append(events, Event{Kind: KindStart, Data: []byte("start")})
	for i := 0; len(events) < n; i++ {
		switch r := rng.Intn(100); {
		case r < 60: // a character: poll LSR, write THR
			add(uint64(40+rng.Intn(3)), Event{Kind: KindIO, Size: 1, Device: 4, Addr: 0x3fd, PC: base + 0x4a0123, Value: 0x60, Task: task, PID: pid})
			add(12, Event{Kind: KindIO, Size: 1, Write: true, Device: 4, Addr: 0x3f8, PC: base + 0x4a0177, Value: uint64(text[i%len(text)]), Task: task, PID: pid})
		case r < 70: // timer: program, halt, interrupt, acknowledge
			d := pos + idle + 1_000_000 + uint64(rng.Intn(3_000_000))
			add(uint64(500+rng.Intn(4000)), Event{Kind: KindWRMSR, Size: 8, Write: true, Addr: 0xd3700000, PC: base + 0x33001, Value: d, Task: task, PID: pid})
			add(200, Event{Kind: KindHalt, PC: base + 0x900010, Value: 1_000_000 - uint64(rng.Intn(5000))})
			add(0, Event{Kind: KindInterrupt, PC: base + uint64(rng.Intn(1<<20)), Value: 0x30, Task: task, PID: pid})
			add(90, Event{Kind: KindRDMSR, Size: 8, Addr: 0xd3700001, PC: base + 0x33050, Value: pos + idle + 90, Task: task, PID: pid})
			add(31, Event{Kind: KindIO, Size: 1, Write: true, Device: 1, Addr: 0x20, PC: base + 0x22000, Value: 0x60, Task: task, PID: pid})
		case r < 95: // disk: notify, interrupt, status, acknowledge
			add(uint64(3000+rng.Intn(20000)), Event{Kind: KindMMIO, Size: 4, Write: true, Device: 6, Addr: 0xd0002050, PC: base + 0x5c0000, Task: task, PID: pid})
			add(uint64(rng.Intn(50)), Event{Kind: KindInterrupt, PC: base + 0x5c0000 + uint64(rng.Intn(4096)), Value: 0x32, Task: task, PID: pid})
			add(77, Event{Kind: KindMMIO, Size: 4, Device: 6, Addr: 0xd0002060, PC: base + 0x5c0100, Value: 1, Task: task, PID: pid})
			add(15, Event{Kind: KindMMIO, Size: 4, Write: true, Device: 6, Addr: 0xd0002064, PC: base + 0x5c0130, Value: 1, Task: task, PID: pid})
		default:
			pid = 1 + uint32(rng.Intn(40))
			task = []string{"sh", "init", "cat", "python3", "kworker/0:1"}[rng.Intn(5)]
			add(uint64(rng.Intn(90000)), Event{Kind: KindStdout, Device: 5, PC: 0x401000, Data: text[:1+rng.Intn(80)], Task: task, PID: pid})
		}
		if i%3000 == 2999 {
			d := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(i)))
			add(0, Event{Kind: KindCheckpoint, Data: d[:]})
		}
	}
	events = events[:n-1]
	end, _ := (&End{Reason: "exited"}).MarshalBinary()
	last := events[len(events)-1]
	return append(events, Event{Kind: KindEnd, Position: last.Position, Time: last.Time, Data: end})
}

// record writes a complete trace.
func record(t testing.TB, h *Header, opts Options, events []Event) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, h, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AppendAll(events); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(StatusComplete, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(t testing.TB, file []byte) *Reader {
	t.Helper()
	r, err := Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func readAll(t testing.TB, r *Reader) []Event {
	t.Helper()
	var list []Event
	it := r.Events(0)
	defer it.Close()
	for it.Next() {
		list = append(list, it.Event().Clone())
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	return list
}

func BenchmarkAppend(b *testing.B) {
	events := bootEvents(30000)
	b.ReportAllocs()
	for b.Loop() {
		record(b, testHeader(), Options{}, events)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/30000, "ns/event")
}

func BenchmarkRead(b *testing.B) {
	file := record(b, testHeader(), Options{}, bootEvents(30000))
	b.ReportMetric(float64(len(file))/30000, "bytes/event")
	n := 0
	for b.Loop() {
		it := open(b, file).Events(0)
		for it.Next() {
			n++
		}
		if it.Err() != nil {
			b.Fatal(it.Err())
		}
		it.Close()
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mevents/s")
}

// BenchmarkAppendCaller measures what the run loop pays: the time until Append returns, with the writer's own goroutine at work beside it.
func BenchmarkAppendCaller(b *testing.B) {
	events := bootEvents(30000)
	w, err := NewWriter(io.Discard, testHeader(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Abandon()
	i, base := 0, uint64(0)
	for b.Loop() {
		e := events[i]
		e.Position += base
		e.Time += base
		if err := w.Append(&e); err != nil {
			b.Fatal(err)
		}
		if i++; i == len(events) {
			i, base = 0, base+events[i-1].Time
		}
	}
}
