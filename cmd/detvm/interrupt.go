package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// interruptible lets SIGINT, SIGTERM and SIGHUP cancel the context of a command, so that it removes its temporary files; it then ends with 128+n. The same signal again
// kills it. It is for commands that do not pass signals on to a guest.
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
				signal.Stop(signals)
				cancel(exitError{128 + int(s.(syscall.Signal))})
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
