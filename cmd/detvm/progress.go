package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// progressBar draws how far long work is, on a terminal; in a pipe it is silent. It is for one goroutine.
type progressBar struct {
	w     io.Writer
	what  string
	total uint64
	last  time.Time
	drawn bool
}

const (
	progressWidth    = 30
	progressInterval = 100 * time.Millisecond
)

// newProgress returns a bar on w if that is a terminal, else one that draws nothing.
func newProgress(w io.Writer, what string, total uint64) *progressBar {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || total == 0 {
		return &progressBar{}
	}
	return &progressBar{w: w, what: what, total: total}
}

func (p *progressBar) set(done uint64) {
	if p.w == nil || time.Since(p.last) < progressInterval {
		return
	}
	p.last, p.drawn = time.Now(), true
	filled := int(min(done, p.total) * progressWidth / p.total)
	fmt.Fprintf(p.w, "\r%s [%s%s] %3d%%", p.what, strings.Repeat("#", filled), strings.Repeat(".", progressWidth-filled), min(done, p.total)*100/p.total)
}

// clear removes the bar.
func (p *progressBar) clear() {
	if p.drawn {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", len(p.what)+progressWidth+9))
	}
}
