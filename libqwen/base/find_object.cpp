// _dl_find_object for the unwinder inside this library, so that a wheel runs on systems whose glibc has none (before 2.35).
//
// From gcc 12 on, where glibc has that function, libgcc_eh.a finds the unwind table of an address with it and with nothing
// else. This one, seen by this library alone, looks where libgcc looked before: dl_iterate_phdr. It takes the loader's lock
// for each frame that is unwound, which only what fails pays for.
#include <dlfcn.h>
#include <link.h>

#include <cstdint>

namespace {

struct Search {
  uintptr_t address;
  dl_find_object* found;
};

int visit(dl_phdr_info* object, size_t, void* user) {
  const auto* search = static_cast<const Search*>(user);
  const ElfW(Phdr)* unwind_table = nullptr;
  bool here = false;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = object->dlpi_phdr[i];
    // Where the segment begins after the address the difference wraps around, and is larger than any segment.
    if (segment.p_type == PT_LOAD)
      here |= search->address - (object->dlpi_addr + segment.p_vaddr) < segment.p_memsz;
    if (segment.p_type == PT_GNU_EH_FRAME) unwind_table = &segment;
  }
  if (!here || !unwind_table) return here ? -1 : 0;
  search->found->dlfo_eh_frame = reinterpret_cast<void*>(object->dlpi_addr + unwind_table->p_vaddr);
  return 1;
}

}  // namespace

// The unwinder reads dlfo_eh_frame (and dlfo_eh_dbase, which is null for every table that says where it lies itself).
extern "C" int _dl_find_object(void* address, dl_find_object* result) noexcept {
  *result = {};
  Search search{reinterpret_cast<uintptr_t>(address), result};
  return dl_iterate_phdr(visit, &search) == 1 ? 0 : -1;
}
