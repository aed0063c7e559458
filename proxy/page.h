/* The admin port's page, as bytes of the program: proxy/page.html, which asks nothing of any other place. */
#ifndef HF_PAGE_H
#define HF_PAGE_H

#include <stddef.h>

extern const char page_html[];
size_t page_html_bytes(void);

#endif
