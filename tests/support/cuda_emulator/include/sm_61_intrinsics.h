// Stands in for CUDA's: the byte products of compute capability 6.1.
#pragma once
inline int __dp4a(int a, int b, int c) {
  for (int shift = 0; shift < 32; shift += 8) c += (signed char)(a >> shift) * (signed char)(b >> shift);
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int shift = 0; shift < 32; shift += 8) c += (unsigned char)(a >> shift) * (unsigned char)(b >> shift);
  return c;
}
