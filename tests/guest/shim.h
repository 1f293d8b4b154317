/* What a host program asks the preloaded shim.c for: memory, mappings and threads that are refused to the library. */
#ifndef SHIM_H
#define SHIM_H

/* From here on the calling thread is (not) inside the library. Threads that are made inside belong to it. */
void shim_inside(int on);
/* Of the points where the library asks for something, the k-th from now on and count - 1 behind it are refused; k = 0: none is. */
void shim_refuse(long k, long count);
/* Since shim_refuse: points passed, and how many of them were refused. */
long shim_points(void);
long shim_refused(void);
/* Blocks and mappings that were had inside and not given back. */
long shim_live(void);

#endif
