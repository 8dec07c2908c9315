/** Both sides of a function's channel, as a pair of processes gets them. */
import type { ChannelEnds } from '../../host/sandbox/function-channel.ts';
import { Connection } from '../../host/sys/connection.ts';
import { pipe, socketPair } from '../../host/sys/socket.ts';

/** The far ends are descriptors, and the caller's to close. */
export function openChannelEnds(): { near: ChannelEnds; far: { invoke: number; answers: number } } {
  const [invoke, invokeFar] = socketPair('stream');
  const [answers, answersFar] = pipe();
  return {
    near: {
      invoke: new Connection(invoke, { readable: false }),
      answers: new Connection(answers, { writable: false }),
    },
    far: { invoke: invokeFar, answers: answersFar },
  };
}
