/** Runs when the function is bundled, `node build.ts OUTPUT`: compiles the program beside it. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

const [output] = process.argv.slice(2);
if (output === undefined) throw new Error('Give the output directory');
// Static: it also runs on the host and in a bare chroot.
const program = join(output, 'probe');
const options = ['-O1', '-Wall', '-Werror', '-static', '-pthread'];
execFileSync('gcc', [...options, '-o', program, 'probe.c', 'host.c']);
