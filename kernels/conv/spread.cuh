// How the pixels of a convolution's source stand: as they are, one at every second position, or each four times.
#pragma once

enum Spread { DENSE = 1, ZEROS = 2, REPEAT = 3 };
