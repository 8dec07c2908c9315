/**
 * One container from birth to last unmount:
 *
 *     create ──> parked ──assign──> ready ──call, call, …──> ended
 *                   └───────────────────┴── destroy, death ────┘
 *
 * A parked container has its namespaces, cgroup and network, and only our own code has run in it.
 * `assign` gives it one function's root, for good. One that is ready may be frozen: all processes
 * of it stand still until its next call, or its end. However it ends, `ended` resolves after the
 * last process is gone, and everything it had is given back.
 */
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { HatchError, messageOf } from '../base/errors.ts';
import { functionUser } from '../base/function-user.ts';
import type { ReadyStock } from '../base/ready-stock.ts';
import type { Step } from '../base/channels.ts';
import { StepTimer } from '../base/step-timer.ts';
import type { Cgroup, CgroupLimits } from '../cgroup/cgroup.ts';
import type { IdRange, IdRanges } from '../namespace/id-ranges.ts';
import type { NetworkAccess } from '../network/network.ts';
import type { CallMetadata, CancelCause, Specialisation } from '../protocol/invoke.ts';
import type { ContainerIdentity, FdRole } from '../protocol/zygote.ts';
import type { CopyUpProbe, CopyUpTime } from '../storage/copy-up-probe.ts';
import type { WritableRoot } from '../storage/storage-driver.ts';
import type { StorageDrivers } from '../storage/storage-drivers.ts';
import type { Volumes } from '../storage/volumes.ts';
import type { Connection } from '../sys/connection.ts';
import { killByPidFd } from '../sys/fork.ts';
import { watchReadable, type Watch } from '../sys/libc.ts';
import { containerMemory } from './container-memory.ts';
import { FunctionChannel, type CallResult, type Output } from './function-channel.ts';
import { endReason } from './end-reason.ts';
import { InitChannel } from './init-channel.ts';
import { RawOutput } from './raw-output.ts';
import { mountOwn, type OwnMounts } from './own-mounts.ts';
import { createRoot, type RootOrder } from './root.ts';
import { Refusals } from './refusals.ts';

export interface SandboxParts {
  cgroups: CgroupSource;
  storage: Pick<StorageDrivers, 'of'>;
  /** For functions that have some. */
  volumes?: Pick<Volumes, 'mount'>;
  copyUpProbe?: CopyUpProbe;
  idRanges: IdRanges;
  /** Descriptors of network namespaces, with their loopback up. */
  networks: Pick<ReadyStock<number>, 'take'>;
}

/** Gives out empty groups; the name of its group is a container's id. */
export interface CgroupSource {
  take(): Cgroup;
}

/** The two processes of a container; the connections are now ours. */
export interface ContainerProcesses {
  /** To PID 1. */
  control: Connection;
  /** To the function's process, and from it. */
  invoke: Connection;
  answers: Connection;
  /** From what both write to standard output and error. */
  output: Connection;
  /** PID 1, once it is there. */
  first: Promise<{ pid: number; pidFd: number }>;
}

/** The request's descriptors stay the caller's, and open until `first` is settled. */
export type Spawner = (request: {
  identity: ContainerIdentity;
  fds: readonly (readonly [FdRole, number])[];
}) => ContainerProcesses;

export interface Assignment extends RootOrder, OwnMounts {
  specialisation: Specialisation;
  limits: CgroupLimits;
  /** What it may reach; the container's from here on. Undefined: its own loopback. */
  network?: NetworkAccess | undefined;
}

/** How long after its death what it said is waited for: it is there, but not read yet. */
const lastWordsMs = 100;
/** How long after the end of its channel a function's exit status may come. */
const exitGraceMs = 500;

export class Sandbox {
  readonly id: string;
  /** Resolves once no process, mount, group or directory of it is left; with why it ended. */
  readonly ended: Promise<HatchError>;
  readonly #parts: SandboxParts;
  readonly #range: IdRange;
  readonly #cgroup: Cgroup;
  readonly #onOutput: (output: Output) => void;
  readonly #settleEnded: (reason: HatchError) => void;
  readonly #refusals: Refusals;
  #channel: FunctionChannel | undefined;
  #init: InitChannel | undefined;
  #rawOutput: RawOutput | undefined;
  #pidFd: number | undefined;
  #pidWatch: Watch | undefined;
  #root: WritableRoot | undefined;
  #network: NetworkAccess | undefined;
  #pid = 0;
  #memoryBytes = 0;
  #frozen = false;
  #reason: HatchError | undefined;

  /**
   * Starts a container; it may be assigned a function at once. One that is executed has to be in
   * its function's network namespace from the start. Rejects with `host.start_failed`.
   */
  static async create(
    parts: SandboxParts,
    options: {
      spawn: Spawner;
      onOutput: (id: string, output: Output) => void;
      namespaceFd?: number | undefined;
    },
  ): Promise<Sandbox> {
    const range = parts.idRanges.acquire();
    let cgroup: Cgroup;
    try {
      cgroup = parts.cgroups.take();
    } catch (error) {
      parts.idRanges.release(range);
      throw error;
    }
    const id = cgroup.name;
    const onOutput = (output: Output): void => options.onOutput(id, output);
    const sandbox = new Sandbox(parts, range, cgroup, onOutput);
    try {
      await sandbox.#start(options.spawn, options.namespaceFd);
    } catch (error) {
      const message = `Cannot start container "${id}": ${messageOf(error)}`;
      await sandbox.#release(new HatchError('host.start_failed', message, { cause: error }));
      throw new HatchError('host.start_failed', message, { cause: error });
    }
    return sandbox;
  }

  private constructor(
    parts: SandboxParts,
    range: IdRange,
    cgroup: Cgroup,
    onOutput: (output: Output) => void,
  ) {
    this.id = cgroup.name;
    this.#parts = parts;
    this.#range = range;
    this.#cgroup = cgroup;
    this.#onOutput = onOutput;
    this.#refusals = new Refusals((text) => onOutput({ callId: 0, stream: 'stderr', text }));
    const ended = Promise.withResolvers<HatchError>();
    this.ended = ended.promise;
    this.#settleEnded = ended.resolve;
  }

  /** Process id of PID 1, as the host sees it. */
  get pid(): number {
    return this.#pid;
  }

  get alive(): boolean {
    return this.#reason === undefined && this.#channel?.open !== false;
  }

  /** Stopped, or about to be, until its next call. */
  get frozen(): boolean {
    return this.#frozen;
  }

  get cgroup(): Cgroup {
    return this.#cgroup;
  }

  /** Bytes of memory that it is charged for, what it has written included. */
  memoryInUse(): number {
    return this.#cgroup.usage().memoryBytes;
  }

  /** Bytes that it takes besides, and the host is charged for. Rejects when it ends meanwhile. */
  async memoryPaidByHost(): Promise<number> {
    const bytes = await containerMemory(this.#cgroup.pids());
    return Math.max(bytes - this.memoryInUse(), 0);
  }

  /** Where files are copied up to; undefined while parked or once ended, or when none are. */
  get root(): Pick<WritableRoot, 'upperDirectory' | 'lowerDirectories'> | undefined {
    return this.alive && this.#root?.copiesUp === true ? this.#root : undefined;
  }

  /** What the kernel took for the copy-up that made this inode of its upper directory. */
  copyUpTime(inode: bigint): CopyUpTime | undefined {
    return this.#parts.copyUpProbe?.find({ cgroupId: this.#cgroup.kernelId(), inode });
  }

  /** Resolves when both processes wait for a function; with the steps that took. */
  async parked(): Promise<Step[]> {
    const steps = await this.#liveChannel().parked;
    await this.#init?.running;
    return steps;
  }

  /** Makes it an instance of one function. Resolves when that is loaded, with the steps it took. */
  async assign(assignment: Assignment): Promise<Step[]> {
    const { specialisation, limits, network } = assignment;
    const channel = this.#liveChannel();
    const timer = new StepTimer();
    this.#network = network;
    const isSent = specialisation.network?.isSent === true && network !== undefined;
    channel.assign(specialisation, isSent ? [network.namespaceFd] : []);
    network?.entered();
    this.#cgroup.setLimits(limits);
    this.#memoryBytes = limits.memoryBytes;
    timer.finish('limits');
    this.#root = createRoot(this.#parts, { id: this.id, range: this.#range }, assignment);
    timer.finish('overlay');
    const loaded = this.#sendRoot(channel, this.#root, assignment);
    this.#root.closeMount();
    const steps = await loaded;
    // The function's process has waited for this before it loaded anything: it is there by now.
    await this.#init?.running;
    return [...timer.steps, ...steps];
  }

  #sendRoot(channel: FunctionChannel, { mountFd }: WritableRoot, own: OwnMounts): Promise<Step[]> {
    const { volumes } = this.#parts;
    using mounts = mountOwn(own, { mountFd, range: this.#range, volumes });
    return channel.sendRoot([mountFd, ...mounts.fds]);
  }

  /** `onStart` gets the call's number before anything is sent. Rejects with `function.*`. */
  call(
    metadata: CallMetadata,
    payload: Uint8Array,
    onStart: (callId: number) => void,
  ): Promise<CallResult> {
    const channel = this.#liveChannel();
    if (this.#frozen) this.#thaw();
    return channel.call(metadata, payload, onStart);
  }

  /** Resolves when nothing runs in it, or a call has come first; rejects when it runs on. */
  async freeze(): Promise<void> {
    if (this.#frozen || !this.alive) return;
    this.#frozen = true;
    try {
      await this.#cgroup.freeze();
    } catch (error) {
      this.#frozen = false;
      throw error;
    }
  }

  /** Aborts the call's signal; the call still ends by itself, or with the container. */
  cancel(callId: number, cause: CancelCause): void {
    this.#channel?.cancel(callId, cause);
  }

  /** A call that the seccomp filter refused; gives how long its answer is to wait. */
  refused(callName: string): number {
    return this.#refusals.add(callName);
  }

  /** By way of PID 1, as `kill` from outside would. */
  signal(signal: number): void {
    this.#init?.signal(signal);
  }

  /** Kills all its processes. Resolves when everything it had is given back. Twice is fine. */
  async destroy(reason = new HatchError('host.draining', 'Instance was retired')): Promise<void> {
    this.#fail(reason);
    this.#kill();
    await this.ended;
  }

  async #start(spawn: Spawner, given: number | undefined): Promise<void> {
    const own = given === undefined ? this.#parts.networks.take() : undefined;
    const network = given ?? own;
    try {
      const processes = spawn({
        identity: { id: this.id, ...functionUser },
        fds: [
          ['userNamespace', this.#range.userNamespaceFd],
          ...(network === undefined ? [] : [['networkNamespace', network] as const]),
          ...this.#cgroup.joinFds.map((fd) => ['joinCgroup', fd] as const),
        ],
      });
      this.#connect(processes);
      const { pid, pidFd } = await processes.first;
      this.#pid = pid;
      this.#pidFd = pidFd;
      this.#pidWatch = watchReadable(pidFd, () => this.#onGone());
      // Meanwhile it may have been given up.
      if (this.#reason !== undefined) this.#kill();
    } finally {
      if (own !== undefined) closeSync(own);
      this.#cgroup.closeJoinFds();
    }
  }

  #connect({ control, invoke, answers, output }: ContainerProcesses): void {
    this.#init = new InitChannel(control.socket, () => this.#onFunctionExit());
    this.#channel = new FunctionChannel(
      { invoke, answers },
      {
        onOutput: this.#onOutput,
        onEnd: () => this.#onChannelEnd(),
        onBroken: (reason) => void this.destroy(reason),
      },
    );
    // Or the function could not open its own /dev/stdout: both ends have one owner.
    const owner = this.#range.firstHostId;
    output.changeOwner(owner + functionUser.uid, owner + functionUser.gid);
    this.#rawOutput = new RawOutput(output.socket, this.#onOutput);
  }

  #thaw(): void {
    this.#frozen = false;
    this.#cgroup.thaw();
  }

  /** With PID 1 all others end. Frozen on cgroup v1, it would end only once it is thawed. */
  #kill(): void {
    if (this.#pidFd === undefined) return;
    if (this.#frozen) this.#cgroup.kill();
    else killByPidFd(this.#pidFd);
    this.#frozen = false;
  }

  #liveChannel(): FunctionChannel {
    if (this.#reason !== undefined) throw this.#reason;
    if (this.#channel === undefined)
      throw new HatchError('internal.bug', `Container "${this.id}" was never started`);
    return this.#channel;
  }

  /** A function that ends closes its channel too; one that only closed it serves nobody. */
  #onChannelEnd(): void {
    const reason = new HatchError('function.exited', 'Function closed its channel to the host');
    setTimeout(() => void this.destroy(reason), exitGraceMs).unref();
  }

  /** PID 1 said so; what the function still sent before it ended is read first. */
  #onFunctionExit(): void {
    setImmediate(() => this.#fail(this.#whyItEnded()));
  }

  /** The last process of the container is gone. */
  #onGone(): void {
    this.#pidWatch?.close();
    this.#pidWatch = undefined;
    void this.#lastWords().then(() => this.#release(this.#whyItEnded()));
  }

  /** How the function ended and what it wrote last may still be on its way. */
  async #lastWords(): Promise<void> {
    const giveUp = AbortSignal.timeout(lastWordsMs);
    const heard = Promise.all([this.#init?.ended, this.#rawOutput?.ended]);
    await Promise.race([heard, once(giveUp, 'abort')]);
  }

  #whyItEnded(): HatchError {
    return endReason(this.#init?.exit, this.#cgroup, this.#memoryBytes);
  }

  /** From here on every call fails with this; the first reason stays. */
  #fail(reason: HatchError): void {
    this.#reason ??= reason;
    this.#channel?.close(this.#reason);
  }

  async #release(reason: HatchError): Promise<void> {
    this.#fail(reason);
    this.#frozen = false;
    this.#init?.close();
    this.#rawOutput?.close();
    if (this.#pidFd !== undefined) closeSync(this.#pidFd);
    this.#pidFd = undefined;
    this.#network?.release();
    // A parked one may end before it had a root.
    const results = await Promise.allSettled([this.#cgroup.remove(), this.#root?.destroy()]);
    // With something left behind the range stays taken: its next owner would meet it.
    if (results.every((result) => result.status === 'fulfilled'))
      this.#parts.idRanges.release(this.#range);
    this.#settleEnded(this.#reason ?? reason);
  }
}
