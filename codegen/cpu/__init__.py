"""CPUs: the levels of x86-64 and aarch64 that a kernel library may be for, and what compiles and links one."""
