// Stands in for CUDA's: everything that kernels use comes from cuda_host.h.
#pragma once
