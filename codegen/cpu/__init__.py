"""CPUs: the x86-64 microarchitecture levels that a kernel library may be for, and what compiles and links one."""
