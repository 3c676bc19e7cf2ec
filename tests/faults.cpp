// Preloaded into the program by faults_test.py: makes one allocation fail, or threads, as the environment says.
//
// * HEARTH_FAIL_NEW=N: the Nth operator new, from 0, throws std::bad_alloc; with HEARTH_FAIL_ON=1 all after it, too
// * HEARTH_FAIL_THREAD=N: the Nth pthread_create, from 0, and all after it say EAGAIN
// * HEARTH_COUNT=FILE: at the end the number of allocations is written there
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <new>

#include <dlfcn.h>
#include <pthread.h>

namespace {

long setting(const char* name)
{
    const char* value = std::getenv(name);
    return value ? std::atol(value) : -1;
}

std::atomic<long> allocations = 0, threads = 0;

bool fails()
{
    static const long which = setting("HEARTH_FAIL_NEW"), on = setting("HEARTH_FAIL_ON");
    const long now = allocations.fetch_add(1, std::memory_order_relaxed);
    return which >= 0 && (now == which || (on > 0 && now > which));
}

void* allocate(std::size_t bytes, std::size_t alignment)
{
    if (fails()) return nullptr;
    if (alignment == 0) return std::malloc(bytes ? bytes : 1);
    return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

void* allocate_or_throw(std::size_t bytes, std::size_t alignment)
{
    if (void* p = allocate(bytes, alignment)) return p;
    throw std::bad_alloc();
}

struct Count {
    std::FILE* file = nullptr;    // opened at the start: a program that confines itself may not do so later

    Count()
    {
        if (const char* path = std::getenv("HEARTH_COUNT")) file = std::fopen(path, "w");
    }
    ~Count()
    {
        if (!file) return;
        std::fprintf(file, "%ld\n", allocations.load());
        std::fclose(file);
    }
} count;

}    // namespace

void* operator new(std::size_t bytes) { return allocate_or_throw(bytes, 0); }
void* operator new[](std::size_t bytes) { return allocate_or_throw(bytes, 0); }
void* operator new(std::size_t bytes, std::align_val_t alignment)
{
    return allocate_or_throw(bytes, std::size_t(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment)
{
    return allocate_or_throw(bytes, std::size_t(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes, 0); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes, 0); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                              void* argument)
{
    using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
    static const Create real = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
    static const long which = setting("HEARTH_FAIL_THREAD");
    if (which >= 0 && threads.fetch_add(1) >= which) return EAGAIN;
    return real(thread, attributes, start, argument);
}
