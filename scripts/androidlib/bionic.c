/* Stand-ins for Android's libc, libm, libdl and liblog on x86-64 Linux, for tests only.
 *
 * Most functions are the same in glibc: native.py generates a jump for each into `jumps.h` (DECLARE, RESOLVE, JUMPS).
 * What differs is written out here: streams (bionic exports an array __sF), variadic and fortified functions, constants
 * of sysconf, the log, and dlsym, which in bionic also searches the caller's own library.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>

#include "jumps.h"

extern int dprintf(int, const char *, ...);
extern int vdprintf(int, const char *, va_list);
extern int *__errno_location(void);
extern void *dlvsym(void *, const char *, const char *);
extern int dladdr(const void *, Dl_info *);

static void *(*host_dlopen)(const char *, int);
static void *(*host_dlsym)(void *, const char *);
static void *host_libc, *host_libm;

DECLARE

static void *host(const char *name) {
    void *found = host_dlsym(host_libc, name);
    return found ? found : host_dlsym(host_libm, name);
}

typedef struct { char bytes[152]; } BionicFile;
BionicFile __sF[3];
void *stdin, *stdout, *stderr;
char **environ;

static void *stream(void *file) {
    if (file == &__sF[0]) return stdin;
    if (file == &__sF[1]) return stdout;
    if (file == &__sF[2]) return stderr;
    return file;
}

/* Functions of streams: the same but for the stream. */
#define STREAM_1(type, name) static type (*host_##name)(void *); type name(void *f) { return host_##name(stream(f)); }
#define STREAM_2(type, name, first) \
    static type (*host_##name)(first, void *); type name(first a, void *f) { return host_##name(a, stream(f)); }
#define STREAM_4(name, first) \
    static size_t (*host_##name)(first, size_t, size_t, void *); \
    size_t name(first a, size_t size, size_t n, void *f) { return host_##name(a, size, n, stream(f)); }
STREAM_1(int, fflush)
STREAM_1(int, fclose)
STREAM_1(int, fileno)
STREAM_1(int, getc)
STREAM_2(int, fputc, int)
STREAM_2(int, ungetc, int)
STREAM_2(int, fputs, const char *)
STREAM_4(fwrite, const void *)
STREAM_4(fread, void *)

static int (*host_vfprintf)(void *, const char *, va_list);
static int (*host_open)(const char *, int, ...);
static long (*host_read)(int, void *, size_t), (*host_write)(int, const void *, size_t);
static int (*host_vsnprintf)(char *, size_t, const char *, va_list);
static long (*host_sysconf)(int);
static int (*host_strerror_r)(int, char *, size_t);

#define FIND(name) host_##name = host(#name)

__attribute__((constructor)) static void find_all(void) {
    host_dlopen = dlvsym(RTLD_DEFAULT, "dlopen", "GLIBC_2.34");
    host_dlsym = dlvsym(RTLD_DEFAULT, "dlsym", "GLIBC_2.34");
    host_libc = host_dlopen("libc.so.6", RTLD_NOW);
    host_libm = host_dlopen("libm.so.6", RTLD_NOW);
    stdin = *(void **)host("stdin");
    stdout = *(void **)host("stdout");
    stderr = *(void **)host("stderr");
    environ = *(char ***)host("environ");
    FIND(fflush), FIND(fclose), FIND(fileno), FIND(getc), FIND(fputc), FIND(ungetc), FIND(fputs), FIND(fwrite);
    FIND(fread), FIND(vfprintf), FIND(open), FIND(read), FIND(write), FIND(vsnprintf), FIND(sysconf);
    host_strerror_r = host("__xpg_strerror_r");
    RESOLVE
}

int putc(int c, void *f) { return fputc(c, f); }
int vfprintf(void *f, const char *format, va_list a) { return host_vfprintf(stream(f), format, a); }
int fprintf(void *f, const char *format, ...) {
    va_list a;
    va_start(a, format);
    int result = vfprintf(f, format, a);
    va_end(a);
    return result;
}

void *dlsym(void *handle, const char *name) {
    void *found = host_dlsym(handle, name);
    Dl_info caller;
    if (!found && !handle && dladdr(__builtin_return_address(0), &caller)) {
        void *own = host_dlopen(caller.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        if (own) found = host_dlsym(own, name);
    }
    return found;
}

int *__errno(void) { return __errno_location(); }
int strerror_r(int e, char *buffer, size_t n) { return host_strerror_r(e, buffer, n); }
char *__gnu_strerror_r(int e, char *buffer, size_t n) { host_strerror_r(e, buffer, n); return buffer; }

/* Fortified functions of bionic take the sizes of their buffers, which are not checked here. */
size_t __strlen_chk(const char *s, size_t n) { size_t i = 0; (void)n; while (s[i]) i++; return i; }
char *__strchr_chk(const char *s, int c, size_t n) {
    (void)n;
    for (;; s++) {
        if (*s == (char)c) return (char *)s;
        if (!*s) return NULL;
    }
}
char *__strrchr_chk(const char *s, int c, size_t n) {
    const char *found = NULL;
    (void)n;
    for (;; s++) {
        if (*s == (char)c) found = s;
        if (!*s) return (char *)found;
    }
}
int __open_2(const char *path, int flags) { return host_open(path, flags); }
long __read_chk(int fd, void *b, size_t n, size_t m) { (void)m; return host_read(fd, b, n); }
long __write_chk(int fd, const void *b, size_t n, size_t m) { (void)m; return host_write(fd, b, n); }
void *__memmove_chk(void *to, const void *from, size_t n, size_t m) {
    char *t = to;
    const char *f = from;
    (void)m;
    if (t < f) for (size_t i = 0; i < n; i++) t[i] = f[i];
    else for (size_t i = n; i--;) t[i] = f[i];
    return to;
}
int __vsnprintf_chk(char *b, size_t n, int flags, size_t m, const char *format, va_list a) {
    (void)flags, (void)m;
    return host_vsnprintf(b, n, format, a);
}
int __register_atfork(void *a, void *b, void *c, void *d) { (void)a, (void)b, (void)c, (void)d; return 0; }

/* bionic's names of what sysconf tells: pages and processors. */
long sysconf(int name) {
    switch (name) {
    case 6: return host_sysconf(2);
    case 39: case 40: return 4096;
    case 96: return host_sysconf(83);
    case 97: return host_sysconf(84);
    case 98: return host_sysconf(85);
    default: return -1;
    }
}

int __system_property_get(const char *name, char *value) { (void)name; value[0] = 0; return 0; }
void android_set_abort_message(const char *message) { dprintf(2, "abort: %s\n", message); }
int __android_log_vprint(int level, const char *tag, const char *format, va_list a) {
    (void)level;
    dprintf(2, "%s: ", tag);
    vdprintf(2, format, a);
    return dprintf(2, "\n");
}
int __android_log_print(int level, const char *tag, const char *format, ...) {
    va_list a;
    va_start(a, format);
    int result = __android_log_vprint(level, tag, format, a);
    va_end(a);
    return result;
}
int __android_log_write(int level, const char *tag, const char *text) {
    (void)level;
    return dprintf(2, "%s: %s\n", tag, text);
}
void __android_log_assert(const char *condition, const char *tag, const char *format, ...) {
    (void)format;
    dprintf(2, "assert %s: %s\n", tag, condition ? condition : "");
    __builtin_trap();
}
void __assert2(const char *file, int line, const char *function, const char *condition) {
    dprintf(2, "%s:%d %s: %s\n", file, line, function, condition);
    __builtin_trap();
}

JUMPS
