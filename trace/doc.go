// Package trace is the file format of a recorded run (.dtr): writing, reading, verifying, proving and redacting it.
//
// A trace is the ordered list of everything that crossed the boundary of a deterministic machine: each device access, interrupt injection, input
// and output is an [Event] with its position on the run's work clock. The [Header] says what was run. The package knows
// nothing about machines; it stores what it is given and makes tampering visible. docs/trace-format.md describes the file byte by byte.
//
// # Digests
//
// Every event has one canonical encoding ([Header.Leaf]). These are the leaves of an RFC 6962 Merkle tree. The trace root hashes the
// header, the number of events, the Merkle root and how the run ended ([RootParts]). It depends on nothing else: not on how events are cut
// into chunks, not on compression, not on the host. Two recordings of the same run have one trace root.
//
// A leaf holds its event's payload (Event.Data) as a commitment, so that a payload can be withheld ([Redact]) while the event and everything else still
// verifies. In a redactable trace the commitment is salted; then a withheld payload cannot be found by hashing guesses.
//
// # File
//
// A file is a sequence of records with a CRC-32C each: header, host section, chunks of events, stored inputs, index, footer; then a trailer.
// Chunks are zstd frames of column-wise delta-coded events. They are chained by hashes, so that of a file which was cut off (the
// recorder was killed) the intact chunks can be read and checked.
//
// # Use
//
// [NewWriter] records; [Open] reads: [Reader.Events] iterates, [Reader.SeekPosition] and [Reader.SeekTime] seek. [Verify] checks a whole file and
// says where it is damaged. [Reader.Prove] makes an inclusion proof of one event, [Reader.ProveRange] of several; [Redact] copies a trace without
// chosen payloads.
//
// Files are hostile: no input makes this package panic, hang or allocate more than the file's size and the fixed limits of the format (32 MiB for
// a chunk) allow.
package trace
