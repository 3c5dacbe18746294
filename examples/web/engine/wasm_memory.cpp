// What native.cpp needs of a C++ library in WebAssembly, where there is none. Memory is a stack:
// `native.js` takes from its top and gives back to a mark.

#include <cstddef>

extern "C" unsigned char __heap_base;

namespace {

constexpr size_t PAGE = 65536, ALIGNMENT = 16;
unsigned char* top = &__heap_base;

}  // namespace

extern "C" {

void* argan_allocate(size_t bytes) {
    unsigned char* const at = top;
    top += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t wanted = (size_t(top) + PAGE - 1) / PAGE, there = __builtin_wasm_memory_size(0);
    if (wanted > there && __builtin_wasm_memory_grow(0, wanted - there) == size_t(-1))
        __builtin_trap();
    return at;
}

void argan_release(void* mark) { top = static_cast<unsigned char*>(mark); }

void* memchr(const void* from, int wanted, size_t count) {
    const auto* bytes = static_cast<const unsigned char*>(from);
    for (size_t i = 0; i < count; ++i)
        if (bytes[i] == static_cast<unsigned char>(wanted)) return const_cast<unsigned char*>(bytes + i);
    return nullptr;
}

}  // extern "C"

void* operator new(size_t bytes) { return argan_allocate(bytes); }
void operator delete(void*) noexcept {}
void operator delete(void*, size_t) noexcept {}

namespace std {
inline namespace __1 {
[[noreturn]] void __libcpp_verbose_abort(const char*, ...) noexcept { __builtin_trap(); }
}  // namespace __1
}  // namespace std
