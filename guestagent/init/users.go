//go:build linux && amd64

package main

import (
	"slices"
	"strconv"
	"strings"
)

// identity is who a command runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32 // supplementary, gid included
	name     string   // "" when /etc/passwd does not know the user
	home     string
}

// maxAccounts bounds what is read of /etc/passwd and /etc/group, which come from the image.
const maxAccounts = 1 << 20

// lookUpUser finds out who spec is: "" (root), NAME, UID, NAME:GROUP, UID:GID and the mixes. passwd and group are the
// contents of the files. A number need not be in them; without a primary group its group is 0. Supplementary groups are
// those that list the user, but only when spec names no group.
func lookUpUser(spec string, passwd, group []byte) (identity, string) {
	user, groupSpec, hasGroup := strings.Cut(spec, ":")
	if user == "" {
		user = "0"
	}
	id := identity{home: "/"}
	if entry := findAccount(passwd, user, 7); entry != nil {
		uid, ok1 := parseID(entry[2])
		gid, ok2 := parseID(entry[3])
		if !ok1 || !ok2 {
			return id, "malformed entry for " + user + " in /etc/passwd"
		}
		id.uid, id.gid, id.name = uid, gid, entry[0]
		if entry[5] != "" {
			id.home = entry[5]
		}
	} else if uid, ok := parseID(user); ok {
		id.uid = uid
	} else {
		return id, "no user " + strconv.Quote(user) + " in /etc/passwd"
	}
	if hasGroup && groupSpec != "" {
		if entry := findAccount(group, groupSpec, 4); entry != nil {
			gid, ok := parseID(entry[2])
			if !ok {
				return id, "malformed entry for " + groupSpec + " in /etc/group"
			}
			id.gid = gid
		} else if gid, ok := parseID(groupSpec); ok {
			id.gid = gid
		} else {
			return id, "no group " + strconv.Quote(groupSpec) + " in /etc/group"
		}
		id.groups = []uint32{id.gid}
		return id, ""
	}
	id.groups = supplementary(group, id)
	return id, ""
}

// supplementary returns the primary group and the groups that list the user, in the order of the file.
func supplementary(group []byte, id identity) []uint32 {
	gids := []uint32{id.gid}
	if id.name == "" {
		return gids
	}
	for line := range strings.Lines(string(group)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 4 || !slices.Contains(strings.Split(f[3], ","), id.name) {
			continue
		}
		const kernelMax = 65536 // NGROUPS_MAX
		if gid, ok := parseID(f[2]); ok && !slices.Contains(gids, gid) && len(gids) < kernelMax {
			gids = append(gids, gid)
		}
	}
	return gids
}

// findAccount returns the fields of the first line that has that name, else of the first that has that number, in a
// file in the form of passwd(5) or group(5) with that many fields.
func findAccount(file []byte, key string, fields int) []string {
	number, isNumber := parseID(key)
	var byNumber []string
	for line := range strings.Lines(string(file)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != fields {
			continue
		}
		if f[0] == key {
			return f
		}
		if n, ok := parseID(f[2]); ok && isNumber && n == number && byNumber == nil {
			byNumber = f
		}
	}
	return byNumber
}

// parseID parses a user or group number. The largest one means "none" to the kernel.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}
