/* guest_main TIMES HOST.so ARGUMENTS: loads a host and the library with it, runs it, and unloads both again, that many times. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  for (int times = atoi(argv[1]); times > 0; --times) {
    void *host = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    int (*host_main)(int, char **) = NULL;
    if (!host || !(*(void **)&host_main = dlsym(host, "host_main"))) return fprintf(stderr, "%s\n", dlerror()), 2;
    const int status = host_main(argc - 2, argv + 2);
    if (status) return status;
    if (dlclose(host)) return fprintf(stderr, "%s\n", dlerror()), 2;
  }
  return 0;
}
