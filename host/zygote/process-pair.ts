/** The two processes of a container as the host holds them: PID 1 and the function's process. */
import { closeSync } from 'node:fs';
import { nowNs } from '../base/clock.ts';
import { HatchError } from '../base/errors.ts';
import type { ContainerIdentity, ContainerOrder, FdRole } from '../protocol/zygote.ts';
import { Connection } from '../sys/connection.ts';
import { makeBell, ringBell } from '../sys/process.ts';
import { pipe, socketPair } from '../sys/socket.ts';
import type { Answer, RequestBody } from './zygote-process.ts';

/** The holder closes the connections. */
export interface ProcessPair {
  /** To PID 1. */
  control: Connection;
  /** To the function's process, which cannot send by it. */
  invoke: Connection;
  /**
   * From the function's process: a pipe. By a socket it could pass descriptors, and closing them
   * would be ours: a connection that lingers (SO_LINGER) keeps who closes it as long as it says.
   */
  answers: Connection;
  /** From what both write to standard output and error. */
  output: Connection;
  /** PID 1. Rejects with `host.start_failed`. */
  first: Promise<{ pid: number; pidFd: number }>;
}

/** A pair that waits for its order. */
export interface BlankPair extends ProcessPair {
  /** Wakes the function's process. Closed with the order, or when the pair is given up. */
  bell: number;
}

/** What a pair becomes. The descriptors stay the caller's. */
export interface PairOrder {
  identity: ContainerIdentity;
  fds: readonly (readonly [FdRole, number])[];
}

/** Asks a zygote, which may have to start first. */
export type Ask = (body: RequestBody, fds: readonly number[]) => Promise<Answer>;

/** Its order can be given at once. */
export function forkPair(ask: Ask): BlankPair {
  const bell = makeBell();
  const pair = makePair((ends) => {
    const all = [...ends, ['bell', bell] as const];
    return ask({ type: 'fork', fds: rolesOf(all) }, fdsOf(all));
  });
  return { ...pair, bell };
}

/** A pair that has its order. The order's descriptors must stay open until `first` is settled. */
export function bootPair(ask: Ask, { identity, fds }: PairOrder): ProcessPair {
  return makePair((ends) => {
    const all = [...ends, ...fds];
    return ask({ type: 'boot', fds: rolesOf(all), container: identity }, fdsOf(all));
  });
}

/** @throws SyscallError `EPIPE` when the pair has died. */
export function giveOrder(pair: BlankPair, { identity, fds }: PairOrder): void {
  const startNs = nowNs();
  const send = (to: Connection, chosen: PairOrder['fds']): void => {
    const order: ContainerOrder = { container: identity, fds: rolesOf(chosen), startNs };
    to.send(Buffer.from(JSON.stringify(order)), fdsOf(chosen));
  };
  send(pair.invoke, fds);
  // PID 1 follows into what the function's process has entered.
  send(
    pair.control,
    fds.filter(([role]) => role === 'userNamespace' || role === 'joinCgroup'),
  );
  ringBell(pair.bell);
  closeBell(pair).catch(() => undefined);
}

/** Ends a pair that has no order. */
export async function discardPair(pair: BlankPair): Promise<void> {
  const { control, invoke, answers, output } = pair;
  for (const { socket } of [control, invoke, answers, output]) socket.destroy();
  const { pidFd } = await closeBell(pair);
  closeSync(pidFd);
}

/** Not before the zygote has it too. */
function closeBell({ first, bell }: BlankPair): ProcessPair['first'] {
  return first.finally(() => closeSync(bell));
}

function makePair(request: (ends: PairOrder['fds']) => Promise<Answer>): ProcessPair {
  const [control, controlFar] = socketPair('stream');
  const [invoke, invokeFar] = socketPair('stream');
  const [answers, answersFar] = pipe();
  const [output, outputFar] = pipe();
  const ends = [
    ['control', controlFar],
    ['invoke', invokeFar],
    ['answers', answersFar],
    ['stdout', outputFar],
  ] as const;
  const first = request(ends)
    .then(({ pid, fd }) => {
      if (pid === undefined || fd === undefined)
        throw new HatchError('internal.bug', 'The zygote answered without a process');
      return { pid, pidFd: fd };
    })
    .finally(() => fdsOf(ends).forEach((fd) => closeSync(fd)));
  // Whoever holds the pair asks for it sooner or later.
  first.catch(() => undefined);
  return {
    control: new Connection(control),
    invoke: new Connection(invoke, { readable: false }),
    answers: new Connection(answers, { writable: false }),
    output: new Connection(output, { writable: false }),
    first,
  };
}

function rolesOf(fds: PairOrder['fds']): FdRole[] {
  return fds.map(([role]) => role);
}

function fdsOf(fds: PairOrder['fds']): number[] {
  return fds.map(([, fd]) => fd);
}
