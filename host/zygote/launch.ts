/**
 * The program that becomes the zygote: it enters a mount namespace that holds the base image and
 * little else, since every container copies it, and executes the image's own Node.js there.
 *
 *     node launch.ts BUILD_DIRECTORY     descriptors: 3 the zygote's socket, 4 the root's mount
 *
 * BUILD_DIRECTORY is an empty directory to attach the root on; it stays empty for all others.
 */
import { closeSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { makeDeviceMount } from '../sys/devices.ts';
import {
  attachMount,
  createMount,
  detachMount,
  makeRootPrivate,
  mountAttribute,
  pivotRootHere,
  setMountAttributes,
} from '../sys/mount.ts';
import { namespaceFlag, unshare } from '../sys/namespace.ts';
import { keepAcrossExec, setUmask } from '../sys/process.ts';

const socketFd = 3;
const rootMountFd = 4;
const { readOnly, noSuid, noDev, noExec } = mountAttribute;

const nodeArguments = [
  'hatch-zygote',
  // The first condition of a fork that lives; the second and third are host/sys/fork.ts.
  '--single-threaded',
  // The program's text in huge pages: a fork copies 20 entries instead of having each child take a
  // page fault for every 64 KiB of text that it runs. Needs the file that `mountSys` provides.
  '--use-largepages=silent',
  '--disable-sigusr1',
  // What was compiled while it warmed up stays compiled.
  '--no-flush-bytecode',
  // Seconds after its last work an idle process would collect garbage: that makes a copy of most
  // pages it shares with the zygote, in every instance of the host at once.
  '--no-memory-reducer',
  '--disable-warning=ExperimentalWarning',
  // Loads the runtime, see images/runtime-layers.ts.
  '/hatch/zygote.cjs',
  'zygote',
];

/** What every function finds in its environment. Nothing of the host's may be in it. */
const environment = {
  PATH: '/usr/local/bin:/usr/bin:/bin',
  HOME: '/home/function',
  TMPDIR: '/tmp',
  LANG: 'C.UTF-8',
};

const buildDirectory = process.argv[2];
if (buildDirectory === undefined) throw new Error('Name the directory to build the root on');
setUmask(0);
unshare(namespaceFlag.mount);
makeRootPrivate();
attachMount(rootMountFd, buildDirectory);
closeSync(rootMountFd);
mountProc(join(buildDirectory, 'proc'));
mountDevices(join(buildDirectory, 'dev'));
mountSys(join(buildDirectory, 'sys'));
process.chdir(buildDirectory);
pivotRootHere();
detachMount('.');
process.chdir('/');
// Node.js marks what it inherited close-on-exec.
keepAcrossExec(socketFd);
process.execve?.('/usr/local/bin/node', nodeArguments, environment);

function mountProc(directory: string): void {
  const proc = createMount({ type: 'proc', options: [], attributes: noSuid | noDev | noExec });
  attachMount(proc, directory);
  closeSync(proc);
}

/**
 * The one file of /sys that Node.js reads, and what covers parts of a container's /proc: see
 * `runtime-init/proc-mount.ts`. Containers have none of it by name.
 */
function mountSys(directory: string): void {
  const mountFd = createMount({ type: 'tmpfs', options: [], attributes: noSuid | noDev | noExec });
  attachMount(mountFd, directory);
  mkdirSync(join(directory, 'masked/directory'), { recursive: true, mode: 0o555 });
  writeFileSync(join(directory, 'masked/file'), '', { mode: 0o444 });
  copyHugePagesSetting(directory);
  setMountAttributes(mountFd, { attributes: readOnly });
  closeSync(mountFd);
}

function copyHugePagesSetting(directory: string): void {
  const file = 'kernel/mm/transparent_hugepage/enabled';
  if (!existsSync(join('/sys', file))) return;
  for (const each of ['kernel', 'kernel/mm', dirname(file)]) mkdirSync(join(directory, each));
  writeFileSync(join(directory, file), readFileSync(join('/sys', file)));
}

function mountDevices(directory: string): void {
  const mountFd = makeDeviceMount();
  attachMount(mountFd, directory);
  closeSync(mountFd);
}
