// SPDX-License-Identifier: GPL-2.0
/* Compiled to assembly by build.sh, never linked: the layout that the VMM needs to name the running task. */
#include <linux/kbuild.h>
#include <linux/sched.h>

void detvm_offsets(void);
void detvm_offsets(void)
{
	OFFSET(task_struct_pid, task_struct, pid);
	OFFSET(task_struct_tgid, task_struct, tgid);
	OFFSET(task_struct_comm, task_struct, comm);
	DEFINE(task_comm_len, TASK_COMM_LEN);
}
