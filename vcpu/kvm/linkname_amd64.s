// This file is empty on purpose: the compiler accepts the bodiless declarations of run_unsafe.go only in a package with an assembly file.
