//go:build linux && amd64

package main

import (
	"slices"
	"strings"
	"testing"
)

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100:Ann:/home/ann:/bin/sh\n# comment\n7:x:1007:1:seven:/seven:/bin/sh\nbad:x:no:1:::\nnohome:x:5:6:::\n"
	testGroup  = "root:x:0:\nusers:x:100:\nwheel:x:10:ann,root\naudio:x:20:bob,ann\nbad:x:zz:ann\n"
)

func TestUserIsLookedUpLikeInAContainer(t *testing.T) {
	for _, c := range []struct {
		spec string
		want identity
	}{
		{"", identity{0, 0, []uint32{0, 10}, "root", "/root"}},
		{"root", identity{0, 0, []uint32{0, 10}, "root", "/root"}},
		{"ann", identity{1000, 100, []uint32{100, 10, 20}, "ann", "/home/ann"}},
		{"1000", identity{1000, 100, []uint32{100, 10, 20}, "ann", "/home/ann"}},
		{"ann:wheel", identity{1000, 10, []uint32{10}, "ann", "/home/ann"}},
		{"ann:55", identity{1000, 55, []uint32{55}, "ann", "/home/ann"}},
		{"ann:", identity{1000, 100, []uint32{100, 10, 20}, "ann", "/home/ann"}},
		{"4242", identity{4242, 0, []uint32{0}, "", "/"}},
		{"4242:17", identity{4242, 17, []uint32{17}, "", "/"}},
		{"7", identity{1007, 1, []uint32{1}, "7", "/seven"}}, // a name before a number
		{"nohome", identity{5, 6, []uint32{6}, "nohome", "/"}},
	} {
		got, problem := lookUpUser(c.spec, []byte(testPasswd), []byte(testGroup))
		if problem != "" || got.uid != c.want.uid || got.gid != c.want.gid || got.name != c.want.name || got.home != c.want.home || !slices.Equal(got.groups, c.want.groups) {
			t.Errorf("%q: got %+v, %q; want %+v", c.spec, got, problem, c.want)
		}
	}
	for _, spec := range []string{"nobody", "ann:nogroup", "bad", "ann:bad", "4294967295", "-1"} {
		if id, problem := lookUpUser(spec, []byte(testPasswd), []byte(testGroup)); problem == "" {
			t.Errorf("%q: got %+v, want a problem", spec, id)
		}
	}
}

func FuzzLookUpUser(f *testing.F) {
	f.Add("ann:wheel", []byte(testPasswd), []byte(testGroup))
	f.Add("7", []byte("::::::\n"), []byte(":::\n"))
	f.Fuzz(func(t *testing.T, spec string, passwd, group []byte) {
		id, problem := lookUpUser(spec, passwd, group)
		if problem == "" && len(id.groups) == 0 {
			t.Error("no problem and no group")
		}
	})
}

func TestEnvironmentOverridesDefaultsInPlace(t *testing.T) {
	got := environment([]string{"TERM=vt100", "X=1", "X=2"}, identity{uid: 1000, name: "ann", home: "/home/ann"}, true)
	want := []string{"PATH=" + defaultPath, "HOME=/home/ann", "USER=ann", "LANG=C.UTF-8", "TERM=vt100", "X=2"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCommandIsSearchedInPath(t *testing.T) {
	env := []string{"A=b", "PATH=/bin::/usr/bin"}
	if got := strings.Join(candidates("ls", env), " "); got != "/bin/ls ./ls /usr/bin/ls" {
		t.Errorf("candidates = %q", got)
	}
	if got := candidates("./ls", env); !slices.Equal(got, []string{"./ls"}) {
		t.Errorf("candidates with a slash = %q", got)
	}
	if got := candidates("ls", nil); len(got) != 0 {
		t.Errorf("candidates without PATH = %q", got)
	}
}
