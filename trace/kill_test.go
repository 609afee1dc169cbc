package trace

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// killedRecorder names the file that the test binary, started again as a recorder, writes until it is killed.
const killedRecorder = "DETVM_TEST_KILLED_RECORDER"

func TestMain(m *testing.M) {
	if name := os.Getenv(killedRecorder); name != "" {
		recordForever(name)
	}
	os.Exit(m.Run())
}

func recordForever(name string) {
	f, err := os.Create(name)
	if err != nil {
		os.Exit(1)
	}
	w, err := NewWriter(f, testHeader(), Options{ChunkEvents: 50, FlushInterval: time.Millisecond})
	if err != nil {
		os.Exit(1)
	}
	for i := uint64(0); ; i++ {
		if err := w.Append(&Event{Kind: KindIO, Position: i, Time: i, Value: i * i, Data: []byte("data")}); err != nil {
			os.Exit(1)
		}
		if i%1000 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

func TestAKilledRecorderLeavesAReadableTrace(t *testing.T) {
	for i := range 5 {
		name := filepath.Join(t.TempDir(), "killed.dtr")
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killedRecorder+"="+name)
		if err := cmd.Start(); errors.Is(err, syscall.ENOEXEC) {
			t.Skipf("this host cannot execute the test binary by itself (it runs under an emulator): %v", err)
		} else if err != nil {
			t.Fatal(err)
		}
		for range 1000 { // until it has written something, and a little longer
			if info, err := os.Stat(name); err == nil && info.Size() > 20000 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Duration(i) * 3 * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		r := open(t, file)
		if cut, _ := r.Truncated(); !cut || r.NumEvents() == 0 {
			t.Fatalf("truncated: %v, %d events", cut, r.NumEvents())
		}
		for n, e := range readAll(t, r) {
			if e.Value != uint64(n*n) {
				t.Fatalf("event %d is wrong", n)
			}
		}
		if rep := verify(t, file); !rep.Truncated || rep.Events != r.NumEvents() || len(rep.Findings) != 1 {
			t.Errorf("%+v", rep)
		}
	}
}
