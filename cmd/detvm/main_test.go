package main

import (
	"testing"

	"github.com/spf13/cobra"
)

func TestEveryCommandHasAnExample(t *testing.T) {
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		if c.Runnable() && !c.HasSubCommands() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	look(newRoot())
}

func TestTextFromATraceIsQuotedUnlessItIsPlain(t *testing.T) {
	for in, want := range map[string]string{
		"sh": "sh", "naïve – 東京": "naïve – 東京", "": "",
		"a\nwhole: 3 events": `"a\nwhole: 3 events"`, "\x1b[8m": `"\x1b[8m"`, "\xff": `"\xff"`, "\u202etxt": `"\u202etxt"`,
	} {
		if got := plain(in); got != want {
			t.Errorf("%q is printed as %s, want %s", in, got, want)
		}
	}
}
