// Lets an extension that is built on a recent glibc run on older ones: glibc gave these functions
// new versions, and a binary asks for those of the machine it is linked on. What is called here is
// the first version of each, which every glibc has. The linker is told to wrap them.
#include <pthread.h>

#include <cmath>

#if !defined(__GLIBC__)
#error "only for glibc"
#endif

#if defined(__x86_64__)
#define FIRST_VERSION "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define FIRST_VERSION "GLIBC_2.17"
#else
#error "the first glibc of this architecture is not known here"
#endif

extern "C" {

double layermerge_first_exp(double);
__asm__(".symver layermerge_first_exp, exp@" FIRST_VERSION);
double __wrap_exp(double x) {
    return layermerge_first_exp(x);
}

int layermerge_first_pthread_once(pthread_once_t*, void (*)());
__asm__(".symver layermerge_first_pthread_once, pthread_once@" FIRST_VERSION);
int __wrap_pthread_once(pthread_once_t* control, void (*routine)()) {
    return layermerge_first_pthread_once(control, routine);
}

// What libstdc++ reads to spare itself atomic operations; false is always right.
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
