/** Puts itself under the filter in FILTER (base64), then runs the module in its argument. */
import process from 'node:process';
import { adoptEventLoop, exitNow, makeForkable } from '../../host/sys/fork.ts';
import { setNoNewPrivileges } from '../../host/sys/process.ts';
import { loadSeccompFilter } from '../../host/sys/seccomp-filter.ts';

const [module] = process.argv.slice(2);
const { FILTER: filter } = process.env;
if (module === undefined || filter === undefined) throw new Error('FILTER=… child.ts MODULE');
// As a forked instance: its event loop was made anew, without an io_uring.
makeForkable();
adoptEventLoop();
setNoNewPrivileges();
// Opened before, as an instance's: a profile may not let it find out what kind it is.
process.stdout.write('');
loadSeccompFilter(Buffer.from(filter, 'base64'));
await import(module);
// Node's own exit wakes a thread whose loop is older than the filter; no fork has that thread.
exitNow(0);
