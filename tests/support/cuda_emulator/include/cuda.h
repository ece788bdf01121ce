// Stands in for CUDA's: TVM's source includes it for the types of tensor maps, which are not emulated.
#pragma once
