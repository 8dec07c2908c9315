/** One zygote process: started, asked, ended. It never restarts; `Zygote` does that. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { HatchError, messageOf } from '../base/errors.ts';
import {
  listenerAnswerId,
  type ZygoteAnswer,
  type ZygoteHello,
  type ZygoteRequest,
  type ZygoteSetup,
} from '../protocol/zygote.ts';
import { isErrno } from '../sys/errors.ts';
import { watchReadable, type Watch } from '../sys/libc.ts';
import { receiveMessage, sendMessage, socketPair } from '../sys/socket.ts';

const startTimeoutMs = 20_000;
const launcher = fileURLToPath(new URL('launch.ts', import.meta.url));
const diagnosticsCharsMax = 16_384;

export interface ZygoteProcessOptions {
  /** Makes a fresh, read-only, detached mount of the base image's root; the zygote closes it. */
  mountRoot: () => number;
  /** An empty directory of ours. */
  buildDirectory: string;
  setup: ZygoteSetup;
  /** Gets listeners to the calls that the filters of its containers refuse, to own. */
  onListener: (fd: number) => void;
}

export interface Answer {
  pid: number | undefined;
  /** The descriptor that came along; the receiver owns it. */
  fd: number | undefined;
}

/** What a request is but for its number, which is given when it is sent. */
export type RequestBody = ZygoteRequest extends infer R
  ? R extends ZygoteRequest
    ? Omit<R, 'id'>
    : never
  : never;

interface Waiting {
  promise: Promise<Answer>;
  resolve: (answer: Answer) => void;
  reject: (error: Error) => void;
}

export class ZygoteProcess {
  readonly pid: number;
  /** Memory of its own, once it has warmed up. */
  memoryBytes = 0;
  /** Settles when the process is gone, with its last words. */
  readonly ended: Promise<string>;
  readonly #child: ChildProcess;
  readonly #socketFd: number;
  readonly #watch: Watch;
  readonly #onListener: ZygoteProcessOptions['onListener'];
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 0;
  #open = true;
  #hello: ZygoteHello = { id: 0, mode: 'fork' };

  /** Resolves when the zygote has warmed up and found out whether it can fork. */
  static async start(options: ZygoteProcessOptions): Promise<ZygoteProcess> {
    const [near, far] = socketPair('seqpacket');
    const rootMountFd = options.mountRoot();
    let child: ChildProcess;
    try {
      child = spawn(
        process.execPath,
        ['--disable-warning=ExperimentalWarning', launcher, options.buildDirectory],
        { stdio: ['ignore', 'ignore', 'pipe', far, rootMountFd], detached: true, env: {} },
      );
    } finally {
      closeSync(rootMountFd);
      closeSync(far);
    }
    const zygote = new ZygoteProcess(child, near, options.onListener);
    const ready = zygote.#expect(0);
    sendMessage(near, Buffer.from(JSON.stringify(options.setup)));
    const timer = setTimeout(() => zygote.kill(), startTimeoutMs);
    try {
      const { fd } = await ready;
      if (fd !== undefined) options.onListener(fd);
      zygote.memoryBytes = ownMemoryBytes(zygote.pid);
      return zygote;
    } finally {
      clearTimeout(timer);
    }
  }

  private constructor(
    child: ChildProcess,
    socketFd: number,
    onListener: ZygoteProcessOptions['onListener'],
  ) {
    this.#onListener = onListener;
    this.#child = child;
    this.pid = child.pid ?? -1;
    this.#socketFd = socketFd;
    this.#watch = watchReadable(socketFd, () => this.#receive());
    let diagnostics = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      diagnostics = (diagnostics + text).slice(-diagnosticsCharsMax);
    });
    this.ended = new Promise((resolve) => {
      const end = (how: string): void => {
        this.#close(`${how}${diagnostics === '' ? '' : `: ${diagnostics.trim()}`}`);
        resolve(diagnostics.trim());
      };
      child.once('error', (error) => end(messageOf(error)));
      child.once('close', (code, signal) => end(`ended with ${signal ?? `status ${code}`}`));
    });
  }

  /** How it makes containers. */
  get mode(): 'fork' | 'exec' {
    return this.#hello.mode;
  }

  /** Why it does not fork, when it does not. */
  get reason(): string | undefined {
    return this.#hello.reason;
  }

  /** Resolves when every request made so far has its answer. */
  async drained(): Promise<void> {
    await Promise.allSettled([...this.#waiting.values()].map((waiting) => waiting.promise));
  }

  /** Sends a request with descriptors, which stay the caller's. Rejects when the zygote dies. */
  request(body: RequestBody, fds: readonly number[] = []): Promise<Answer> {
    if (!this.#open) return Promise.reject(this.#gone('has ended'));
    const id = ++this.#nextId;
    const answer = this.#expect(id);
    try {
      sendMessage(this.#socketFd, Buffer.from(JSON.stringify({ ...body, id })), fds);
    } catch (error) {
      this.#waiting.delete(id);
      return Promise.reject(this.#gone(messageOf(error)));
    }
    return answer;
  }

  /** Lets it end by itself: what it forked lives on. */
  close(): void {
    this.#close('was closed');
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #expect(id: number): Promise<Answer> {
    const waiting = Promise.withResolvers<Answer>();
    this.#waiting.set(id, waiting);
    return waiting.promise;
  }

  #receive(): void {
    for (;;) {
      let message;
      try {
        message = receiveMessage(this.#socketFd, { nonBlocking: true });
      } catch (error) {
        if (isErrno(error, 'EAGAIN')) return;
        if (!isErrno(error, 'ECONNRESET')) throw error;
      }
      if (message === undefined) {
        // Its end is told by the child process itself, with its last words.
        this.#watch.close();
        return;
      }
      this.#settle(JSON.parse(message.bytes.toString()) as ZygoteAnswer | ZygoteHello, message.fds);
    }
  }

  #settle(answer: ZygoteAnswer | ZygoteHello, fds: number[]): void {
    const [listener] = fds;
    if (answer.id === listenerAnswerId && listener !== undefined) {
      this.#onListener(listener);
      return;
    }
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if (waiting === undefined || 'error' in answer) {
      for (const fd of fds) closeSync(fd);
      const reason = 'error' in answer ? answer.error : 'nobody asked';
      waiting?.reject(new HatchError('host.start_failed', `Zygote cannot fork: ${reason}`));
    } else {
      if ('mode' in answer) this.#hello = answer;
      waiting.resolve({ pid: 'pid' in answer ? answer.pid : undefined, fd: fds[0] });
    }
  }

  #close(reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watch.close();
    closeSync(this.#socketFd);
    for (const waiting of this.#waiting.values()) waiting.reject(this.#gone(reason));
    this.#waiting.clear();
  }

  #gone(reason: string): HatchError {
    return new HatchError('host.start_failed', `Zygote ${reason}`);
  }
}

/** Pages of files are shared by all that map them; 0 when it has ended meanwhile. */
function ownMemoryBytes(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1');
    return Number(/^RssAnon:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}
