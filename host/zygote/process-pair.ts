/** The two processes of a container as the host holds them: PID 1 and the function's process. */
import { closeSync } from 'node:fs';
import { nowNs } from '../base/clock.ts';
import { HatchError } from '../base/errors.ts';
import type { ContainerIdentity, ContainerOrder, FdRole } from '../protocol/zygote.ts';
import { Connection } from '../sys/connection.ts';
import { pipe, socketPair } from '../sys/socket.ts';
import type { Answer, RequestBody } from './zygote-process.ts';

/** The holder closes the connections. */
export interface ProcessPair {
  /** To PID 1. */
  control: Connection;
  /** To the function's process. */
  invoke: Connection;
  /** From what both write to standard output and error. */
  output: Connection;
  /** PID 1. Rejects with `host.start_failed`. */
  first: Promise<{ pid: number; pidFd: number }>;
}

/** What a pair becomes. The descriptors stay the caller's. */
export interface PairOrder {
  identity: ContainerIdentity;
  fds: readonly (readonly [FdRole, number])[];
}

/** Asks a zygote, which may have to start first. */
export type Ask = (body: RequestBody, fds: readonly number[]) => Promise<Answer>;

/** A pair that waits for its order, which can be given at once. */
export function forkPair(ask: Ask): ProcessPair {
  return makePair((ends) => ask({ type: 'fork', fds: rolesOf(ends) }, fdsOf(ends)));
}

/** A pair that has its order. The order's descriptors must stay open until `first` is settled. */
export function bootPair(ask: Ask, { identity, fds }: PairOrder): ProcessPair {
  return makePair((ends) => {
    const all = [...ends, ...fds];
    return ask({ type: 'boot', fds: rolesOf(all), container: identity }, fdsOf(all));
  });
}

/** @throws SyscallError `EPIPE` when the pair has died. */
export function giveOrder({ invoke, control }: ProcessPair, { identity, fds }: PairOrder): void {
  const startNs = nowNs();
  const send = (to: Connection, chosen: PairOrder['fds']): void => {
    const order: ContainerOrder = { container: identity, fds: rolesOf(chosen), startNs };
    to.send(Buffer.from(JSON.stringify(order)), fdsOf(chosen));
  };
  // The function's process has the longer way to go. PID 1 follows into what that has entered.
  send(invoke, fds);
  send(
    control,
    fds.filter(([role]) => role === 'userNamespace' || role === 'joinCgroup'),
  );
}

/** Ends a pair that has no order. */
export async function discardPair({ control, invoke, output, first }: ProcessPair): Promise<void> {
  for (const { socket } of [control, invoke, output]) socket.destroy();
  const { pidFd } = await first;
  closeSync(pidFd);
}

function makePair(request: (ends: PairOrder['fds']) => Promise<Answer>): ProcessPair {
  const [control, controlFar] = socketPair('stream');
  const [invoke, invokeFar] = socketPair('stream');
  const [output, outputFar] = pipe();
  const ends = [
    ['control', controlFar],
    ['invoke', invokeFar],
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
    invoke: new Connection(invoke),
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
