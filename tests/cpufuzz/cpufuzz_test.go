package cpufuzz

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/detvm/detvm/vcpu/kvm"
	"github.com/detvm/detvm/vcpu/soft"
)

var (
	long  = flag.Bool("long", false, "run the long comparison")
	cases = flag.Int("cases", 5_000_000, "cases of the long comparison")
	seed  = flag.Uint64("seed", 1, "seed of the comparison")
	show  = flag.Int("show", 10, "differences to print")
	only  = flag.String("only", "", "compare the rows of this mnemonic alone")
)

// compare runs n cases and reports the first differences.
func compare(t *testing.T, n int) *fuzzer {
	t.Helper()
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip("needs /dev/kvm")
	}
	f, err := newFuzzer(*seed, kvm.New, soft.New)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	}()
	if *only != "" {
		f.gen.restrict(*only)
	}
	shown, start, told := 0, time.Now(), 0
	for f.total < n {
		if f.total >= told+500_000 {
			told = f.total
			t.Logf("%d cases, %d differences, %v", f.total, shown, time.Since(start).Round(time.Second))
		}
		err := f.batch(func(diff string) {
			if shown++; shown <= *show {
				t.Errorf("case differs (seed %d, after %d cases):\n%s", *seed, f.total, diff)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if shown > 10**show+1000 {
			break
		}
	}
	if shown > 0 {
		t.Errorf("%d differences in %d cases", shown, f.total)
	}
	t.Logf("%d cases in %v", f.total, time.Since(start).Round(time.Millisecond))
	return f
}

func TestSmall(t *testing.T) {
	n := 40_000
	if testing.Short() {
		n = 10_000
	}
	f := compare(t, n)
	short, report := f.coverage(1)
	t.Log("\n" + report)
	if len(short) > 0 {
		t.Errorf("rows never executed: %q", short)
	}
}

func TestLong(t *testing.T) {
	if !*long {
		t.Skip("needs -long: make fuzz-cpu")
	}
	f := compare(t, *cases)
	short, report := f.coverage(1000)
	t.Log("\n" + report)
	if len(short) > 0 {
		t.Errorf("rows executed less than 1000 times: %q", short)
	}
}
