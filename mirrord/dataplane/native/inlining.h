/* Functions that the compiler puts in their caller's place, or not, since it cannot know which of them most frames need. */
#ifndef MIRRORD_INLINING_H
#define MIRRORD_INLINING_H

#define USUAL static inline __attribute__((always_inline))
#define RARE static __attribute__((noinline)) /* its caller need not make room for it */

#endif
