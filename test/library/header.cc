// SPDX-License-Identifier: MIT OR Apache-2.0
// The header is C++ as well, and its functions link.
#include <qcow2fs.h>

#include <cstdio>
#include <type_traits>

static_assert(std::is_standard_layout<qf_request>::value, "a C structure");

int main()
{
	qf_context *context;
	qf_context_options options{};

	options.size = sizeof(options);
	options.engine = QF_ENGINE_SYNC;
	if (qf_context_create(&options, &context) < 0)
		return 1;
	std::puts(qf_context_engine(context));
	return qf_context_destroy(context) < 0;
}
