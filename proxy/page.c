/* page.html is taken in as it is (the Makefile knows that this file depends on it): no build step, no copy. */
#include "proxy/page.h"

__asm__(".section .rodata\n"
        ".global page_html\n"
        "page_html:\n"
        ".incbin \"proxy/page.html\"\n"
        ".global page_html_end\n"
        "page_html_end:\n"
        ".byte 0\n"
        ".previous\n");

extern const char page_html_end[];

size_t page_html_bytes(void)
{
    return (size_t)(page_html_end - page_html);
}
