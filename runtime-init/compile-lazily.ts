/**
 * Imported before anything else: by now all of this program is compiled, as whoever loads it for
 * the zygote has asked (`images/runtime-layers.ts`). What is loaded from here on need not be.
 */
import { setFlagsFromString } from 'node:v8';

setFlagsFromString('--lazy');
