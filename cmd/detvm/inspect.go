package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/detvm/detvm/images"
	"github.com/detvm/detvm/trace"
)

// symbolSuffix is kernelSymbol in brackets with a space before, or "".
func symbolSuffix(h *trace.Header, pc uint64) string {
	if s := kernelSymbol(h, pc); s != "" {
		return " <" + s + ">"
	}
	return ""
}

// builtinSymbols is the built-in kernel's digest and what names its functions.
var builtinSymbols = sync.OnceValues(func() (trace.Digest, func(pc uint64) string) {
	none := func(uint64) string { return "" }
	k, err := images.GuestKernel()
	if err != nil {
		return "", none
	}
	functions, err := images.GuestKernelFunctions()
	if err != nil {
		return "", none
	}
	return trace.DigestOf(trace.SHA256, k.SHA256[:]), func(pc uint64) string {
		if pc < k.Symbols.Text || pc >= k.Symbols.TextEnd {
			return ""
		}
		name, offset, ok := functions.At(pc)
		if !ok {
			return ""
		}
		return fmt.Sprintf("%s+%#x", name, offset)
	}
})

// kernelSymbol names the kernel's function at an address of a run with the built-in kernel, or returns "".
func kernelSymbol(h *trace.Header, pc uint64) string {
	digest, name := builtinSymbols()
	for _, in := range h.Inputs {
		if in.Role == "kernel" && in.Digest == digest {
			return name(pc)
		}
	}
	return ""
}

// eventText is what an event did, in a few words.
func eventText(h *trace.Header, e *trace.Event) string {
	arrow := map[bool]string{true: "write", false: "read"}[e.Write]
	switch e.Kind {
	case trace.KindIO, trace.KindMMIO:
		return fmt.Sprintf("%s %s %#x.%d = %#x", plain(h.Device(e.Device)), arrow, e.Addr, e.Size, e.Value)
	case trace.KindRDMSR, trace.KindWRMSR:
		fault := ""
		if e.Fault {
			fault = " #GP"
		}
		return fmt.Sprintf("msr %#x = %#x%s", e.Addr, e.Value, fault)
	case trace.KindHalt:
		return "idle for " + time.Duration(e.Value).String()
	case trace.KindInterrupt:
		return fmt.Sprintf("vector %#x", e.Value)
	case trace.KindSignal:
		return fmt.Sprintf("signal %d", e.Value)
	case trace.KindWinsize:
		return fmt.Sprintf("%d rows, %d columns", e.Value>>16, e.Value&0xffff)
	case trace.KindStdin, trace.KindStdout, trace.KindStderr:
		if e.Withheld {
			return preview(e)
		}
		return fmt.Sprintf("%d bytes %s", len(e.Data), preview(e))
	case trace.KindDiskRead, trace.KindDiskWrite:
		return fmt.Sprintf("%s sector %d, %d bytes, %s", plain(h.Device(e.Device)), e.Addr, e.Value, preview(e))
	case trace.KindCheckpoint:
		return "state " + preview(e)
	case trace.KindEnd:
		var end trace.End
		if err := end.UnmarshalBinary(e.Data); err != nil {
			return fmt.Sprintf("exit code %d", e.Value)
		}
		return fmt.Sprintf("%s, exit code %d, state %s", plain(end.Reason), e.Value, plain(string(end.State)))
	case trace.KindStart:
		return "command started"
	}
	return preview(e)
}

const previewBytes = 40

// preview shows the beginning of a payload: text quoted, digests and the like in hexadecimal.
func preview(e *trace.Event) string {
	if e.Withheld {
		return "(withheld)"
	}
	p := e.Data[:min(len(e.Data), previewBytes)]
	text := e.Kind == trace.KindStdin || e.Kind == trace.KindStdout || e.Kind == trace.KindStderr
	if !text || !utf8.Valid(p) && len(p) < previewBytes {
		return hex.EncodeToString(p)
	}
	return fmt.Sprintf("%q", p)
}

func printEventLine(w io.Writer, h *trace.Header, label string, index uint64, e *trace.Event) {
	if e == nil {
		fmt.Fprintf(w, "  %s: nothing\n", label)
		return
	}
	fmt.Fprintf(w, "  %s: #%d %s at position %d, %v, pc %#x%s, %s[%d]: %s\n", label, index, e.Kind, e.Position,
		time.Duration(e.Time), e.PC, symbolSuffix(h, e.PC), plain(e.Task), e.PID, eventText(h, e))
}

// eventFilter selects events.
type eventFilter struct {
	kinds, devices       []string
	from, to             uint64 // event numbers
	sincePos, untilPos   uint64
	sinceTime, untilTime time.Duration
	task                 string
	kindSet              map[trace.Kind]bool
	limit                uint64
}

func (f *eventFilter) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringSliceVar(&f.kinds, "kind", nil, "only these kinds of event (comma-separated): io, mmio, rdmsr, wrmsr, halt, interrupt, stdin, stdout, …")
	fs.StringSliceVar(&f.devices, "device", nil, "only accesses to these devices")
	fs.StringVar(&f.task, "task", "", "only events caused by this guest program")
	fs.Uint64Var(&f.from, "from", 0, "first event number")
	fs.Uint64Var(&f.to, "to", 0, "last event number (0 is the end)")
	fs.Uint64Var(&f.sincePos, "since-position", 0, "only from this position on")
	fs.Uint64Var(&f.untilPos, "until-position", 0, "only up to this position (0 is the end)")
	fs.DurationVar(&f.sinceTime, "since-time", 0, "only from this virtual time on")
	fs.DurationVar(&f.untilTime, "until-time", 0, "only up to this virtual time (0 is the end)")
	fs.Uint64Var(&f.limit, "limit", 0, "print at most this many events (0 is all)")
}

// given reports whether any flag chooses events.
func (f *eventFilter) given(c *cobra.Command) bool {
	return changed(c.Flags(), "kind", "device", "task", "from", "to", "since-position", "until-position", "since-time", "until-time", "limit") != ""
}

func (f *eventFilter) prepare(h *trace.Header) error {
	f.kindSet = map[trace.Kind]bool{}
	for _, name := range f.kinds {
		k, err := trace.ParseKind(name)
		if err != nil {
			return usagef("--kind: %w", err)
		}
		f.kindSet[k] = true
	}
	names := h.Devices[min(1, len(h.Devices)):] // number 0 is no device
	for _, d := range f.devices {
		if !slices.Contains(names, d) {
			return usagef("--device %q: the trace has %s", d, plain(strings.Join(names, ", ")))
		}
	}
	if f.sinceTime < 0 || f.untilTime < 0 {
		return usagef("virtual time begins at 0: --since-time and --until-time are not negative")
	}
	return nil
}

func (f *eventFilter) match(h *trace.Header, i uint64, e *trace.Event) bool {
	if len(f.kindSet) > 0 && !f.kindSet[e.Kind] || f.task != "" && e.Task != f.task {
		return false
	}
	if len(f.devices) > 0 {
		found := false
		for _, d := range f.devices {
			found = found || e.Device != 0 && h.Device(e.Device) == d
		}
		if !found {
			return false
		}
	}
	return e.Position >= f.sincePos && e.Time >= uint64(f.sinceTime) && i >= f.from
}

// past reports whether no later event can match.
func (f *eventFilter) past(i uint64, e *trace.Event) bool {
	return f.to > 0 && i > f.to || f.untilPos > 0 && e.Position > f.untilPos || f.untilTime > 0 && e.Time > uint64(f.untilTime)
}

// eventJSON is one event as a line of JSON.
type eventJSON struct {
	Event    uint64 `json:"event"`
	Kind     string `json:"kind"`
	Position uint64 `json:"position"`
	TimeNS   uint64 `json:"time_ns"`
	PC       uint64 `json:"pc"`
	Symbol   string `json:"symbol,omitempty"`
	Task     string `json:"task,omitempty"`
	PID      uint32 `json:"pid,omitempty"`
	Device   string `json:"device,omitempty"`
	Addr     uint64 `json:"addr,omitempty"`
	Size     uint8  `json:"size,omitempty"`
	Write    bool   `json:"write,omitempty"`
	Fault    bool   `json:"fault,omitempty"`
	Withheld bool   `json:"withheld,omitempty"`
	Value    uint64 `json:"value"`
	Data     []byte `json:"data,omitempty"` // base64
}

func toJSON(h *trace.Header, i uint64, e *trace.Event) eventJSON {
	j := eventJSON{Event: i, Kind: e.Kind.String(), Position: e.Position, TimeNS: e.Time, PC: e.PC, Symbol: kernelSymbol(h, e.PC), Task: e.Task, PID: e.PID,
		Addr: e.Addr, Size: e.Size, Write: e.Write, Fault: e.Fault, Withheld: e.Withheld, Value: e.Value, Data: e.Data}
	if e.Device != 0 {
		j.Device = h.Device(e.Device)
	}
	return j
}

// optionalJSON is toJSON for an event that there may not be.
func optionalJSON(h *trace.Header, i uint64, e *trace.Event) *eventJSON {
	if e == nil {
		return nil
	}
	return ptr(toJSON(h, i, e))
}

func newInspectCommand() *cobra.Command {
	var f eventFilter
	var events, asJSON bool
	c := &cobra.Command{
		Use:   "inspect [flags] TRACE",
		Short: "Show what a trace holds: header, statistics, events",
		Example: `  detvm inspect run.dtr
  detvm inspect run.dtr --events --kind stdout,stdin
  detvm inspect run.dtr --events --json --device disk0 | jq .addr`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, closer, err := openTrace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer closer.Close()
			if err := f.prepare(r.Header()); err != nil {
				return err
			}
			events = events || f.given(cmd)
			out := bufio.NewWriter(cmd.OutOrStdout())
			if events {
				err = printEvents(out, r, &f, asJSON)
			} else {
				err = printSummary(out, r, asJSON)
			}
			if err := out.Flush(); err != nil {
				return fmt.Errorf("print: %w", err)
			}
			return err
		},
	}
	f.register(c)
	c.Flags().BoolVarP(&events, "events", "e", false, "list the events; flags that choose events imply it")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; with --events one line per event")
	return c
}

func printEvents(out io.Writer, r *trace.Reader, f *eventFilter, asJSON bool) error {
	h := r.Header()
	enc := json.NewEncoder(out)
	if !asJSON {
		fmt.Fprintf(out, "%8s %14s %16s %-10s %-22s %s\n", "EVENT", "POSITION", "TIME", "KIND", "PROGRAM", "WHAT")
	}
	var err error
	printed := uint64(0)
	it := r.Events(f.from)
	defer it.Close()
	for it.Next() {
		i, e := it.Index(), it.Event()
		if f.past(i, e) || f.limit > 0 && printed >= f.limit {
			return nil
		}
		if !f.match(h, i, e) {
			continue
		}
		printed++
		if asJSON {
			if err = enc.Encode(toJSON(h, i, e)); err != nil {
				return fmt.Errorf("print: %w", err)
			}
			continue
		}
		pc := ""
		if e.PC != 0 {
			pc = fmt.Sprintf(" @%#x%s", e.PC, symbolSuffix(h, e.PC))
		}
		if _, err = fmt.Fprintf(out, "%8d %14d %16v %-10s %-22s %s%s\n", i, e.Position, time.Duration(e.Time), e.Kind, fmt.Sprintf("%s[%d]", plain(e.Task), e.PID), eventText(h, e), pc); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return nil
}

// traceSummary is inspect's JSON form.
type traceSummary struct {
	Header    *trace.Header     `json:"header"`
	Host      []trace.Setting   `json:"host"`
	Size      int64             `json:"size"`
	Events    uint64            `json:"events"`
	Chunks    int               `json:"chunks"`
	Truncated bool              `json:"truncated"`
	Status    string            `json:"status"`
	Root      string            `json:"trace_root,omitempty"`
	ByKind    map[string]uint64 `json:"events_by_kind"`
	ByDevice  map[string]uint64 `json:"events_by_device"`
	Withheld  uint64            `json:"withheld"`
	TimeNS    uint64            `json:"virtual_time_ns"`
	Position  uint64            `json:"position"`
}

func summarise(r *trace.Reader) (*traceSummary, error) {
	host, _ := r.Host()
	s := &traceSummary{Header: r.Header(), Host: host, Size: r.Size(), Events: r.NumEvents(), Chunks: r.NumChunks(), Status: "cut off",
		ByKind: map[string]uint64{}, ByDevice: map[string]uint64{}}
	if cut, why := r.Truncated(); cut {
		s.Truncated = true
		if why != nil {
			s.Status += ": " + why.Error() + "; 'detvm verify' looks closer"
		}
	}
	if f, ok := r.Footer(); ok {
		s.Root, s.Status = hex.EncodeToString(f.Root), f.Status.String()
	}
	it := r.Events(0)
	defer it.Close()
	for it.Next() {
		e := it.Event()
		s.ByKind[e.Kind.String()]++
		if e.Device != 0 {
			s.ByDevice[s.Header.Device(e.Device)]++
		}
		if e.Withheld {
			s.Withheld++
		}
		s.TimeNS, s.Position = e.Time, e.Position
	}
	return s, it.Err()
}

func printSummary(out io.Writer, r *trace.Reader, asJSON bool) error {
	s, err := summarise(r)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return printJSONOr(out, asJSON, s, func() {
		h := s.Header
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		row := func(k, format string, args ...any) {
			fmt.Fprintf(w, "%s\t%s\n", plain(k), plain(fmt.Sprintf(format, args...)))
		}
		row("trace root", "%s", s.Root)
		row("status", "%s", s.Status)
		row("size", "%d bytes, %d events in %d chunks", s.Size, s.Events, s.Chunks)
		if s.Withheld > 0 {
			row("withheld", "the payloads of %d events", s.Withheld)
		}
		row("command", "%q", h.Command)
		row("environment", "%q", h.Env)
		row("machine", "%s, CPU %s, detvm %s", h.MachineModel, h.CPUModel, h.Version)
		row("work clock", "%s, %d ns per count × %d/%d", h.Clock, h.NSPerCount, h.ScaleNum, h.ScaleDen)
		row("start time", "%s", time.Unix(0, h.StartTime).UTC().Format(time.RFC3339Nano))
		row("hash", "%s, redactable %v", h.Hash, h.Redactable)
		for _, in := range h.Inputs {
			row(in.Role, "%s, %d bytes", in.Digest, in.Size)
		}
		for _, c := range h.Config {
			if c.Key != "cpuid" {
				row(c.Key, "%s", c.Value)
			}
		}
		for _, c := range s.Host {
			row("host: "+c.Key, "%s", c.Value)
		}
		row("ends at", "%v virtual, position %d", time.Duration(s.TimeNS), s.Position)
		for _, k := range trace.Kinds() {
			if n := s.ByKind[k.String()]; n > 0 {
				row("events: "+k.String(), "%d", n)
			}
		}
		for _, d := range h.Devices {
			if n := s.ByDevice[d]; n > 0 {
				row("device: "+d, "%d", n)
			}
		}
		_ = w.Flush()
	})
}
