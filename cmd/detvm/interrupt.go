package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// killAfter is how long a command may take to end by itself.
const killAfter = time.Second

// interruptible lets SIGINT, SIGTERM and SIGHUP cancel the context of a command, so that it removes its temporary files; it then ends with 128+n. A signal
// after killAfter kills it; one before may be the same once more, since timeout(1) signals a process and then its group. It is for commands that do not pass
// signals on to a guest.
func interruptible(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithCancelCause(cmd.Context())
		defer cancel(nil)
		signals := make(chan os.Signal, 1)
		notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer signal.Stop(signals)
		go func() {
			select {
			case s := <-signals:
				cancel(exitError{128 + int(s.(syscall.Signal))})
				time.AfterFunc(killAfter, func() { signal.Stop(signals) })
			case <-ctx.Done():
			}
		}()
		cmd.SetContext(ctx)
		err := run(cmd, args)
		var stopped exitError
		if err != nil && errors.As(context.Cause(ctx), &stopped) {
			return stopped
		}
		return err
	}
}

// notify is like signal.Notify, but leaves signals ignored that the process was started to ignore (nohup).
func notify(c chan<- os.Signal, signals ...os.Signal) {
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
}
