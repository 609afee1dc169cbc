package vmm

import (
	"bytes"
	"encoding/binary"
)

// KernelLayout says where a known kernel build keeps the running task, so that events can name the program that caused them.
// The zero value means unknown; events then have no task.
type KernelLayout struct {
	CurrentTask uint64 // virtual address of the pointer to the running task_struct
	CommOffset  uint64 // of task_struct.comm
	TGIDOffset  uint64 // of task_struct.tgid
}

const (
	kernelTextBase  = 0xffffffff80000000 // __START_KERNEL_map: kernel image without KASLR
	directMapBase   = 0xffff888000000000 // page_offset_base without KASLR, 4-level paging
	taskCommLen     = 16
	taskNameMaximum = taskCommLen - 1
)

// taskReader reads the name and process ID of the running program from guest memory. It never fails: garbage in the guest gives an empty name.
type taskReader struct {
	layout KernelLayout
	raw    [taskCommLen]byte
	name   string
}

func (t *taskReader) current(mem *memory) (name string, pid uint32) {
	if t.layout.CurrentTask == 0 {
		return "", 0
	}
	task, ok := mem.uint64At(t.layout.CurrentTask - kernelTextBase)
	if !ok {
		return "", 0
	}
	var gpa uint64
	switch {
	case task >= kernelTextBase: // the idle task is in the image
		gpa = task - kernelTextBase
	case task >= directMapBase:
		gpa = task - directMapBase
	default:
		return "", 0
	}
	comm, ok := mem.Slice(gpa+t.layout.CommOffset, taskCommLen)
	if !ok {
		return "", 0
	}
	if id, ok := mem.Slice(gpa+t.layout.TGIDOffset, 4); ok {
		pid = binary.LittleEndian.Uint32(id)
	}
	if !bytes.Equal(comm, t.raw[:]) {
		copy(t.raw[:], comm)
		end := bytes.IndexByte(comm, 0)
		if end < 0 {
			end = taskNameMaximum
		}
		t.name = string(comm[:end])
	}
	return t.name, pid
}
