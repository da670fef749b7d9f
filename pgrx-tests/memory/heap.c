/* What a backend holds that it got from malloc: memory contexts, and whatever stands in none. */
#include "postgres.h"
#include "fmgr.h"
#include <malloc.h>

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(heap_bytes);

Datum
heap_bytes(PG_FUNCTION_ARGS)
{
	struct mallinfo2 heap = mallinfo2();

	PG_RETURN_INT64((int64) (heap.uordblks + heap.hblkhd));
}
