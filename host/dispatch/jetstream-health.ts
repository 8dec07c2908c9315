/**
 * Whether a nats-server still keeps what it is given. A full disk may leave its JetStream hanging,
 * or switched off, while it goes on to pass messages; then only a restart helps.
 */
import { connect } from '@nats-io/transport-node';
import { messageOf } from '../base/errors.ts';

export interface JetStreamHealthOptions {
  url: string;
  token: string;
  /** Between two looks, and how long an answer may take. */
  checkMs: number;
  /** It has not answered twice. */
  onIll: (reason: string) => void;
}

const failuresMax = 2;

/** Looks until it is ill, or stopped. */
export class JetStreamHealth {
  readonly #options: JetStreamHealthOptions;
  #timer: NodeJS.Timeout;
  #failures = 0;
  #stopped = false;

  constructor(options: JetStreamHealthOptions) {
    this.#options = options;
    this.#timer = this.#wait();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #wait(): NodeJS.Timeout {
    return setTimeout(() => void this.#look(), this.#options.checkMs).unref();
  }

  async #look(): Promise<void> {
    const reason = await this.#problem();
    if (this.#stopped) return;
    this.#failures = reason === undefined ? 0 : this.#failures + 1;
    if (reason === undefined || this.#failures < failuresMax) this.#timer = this.#wait();
    else this.#options.onIll(reason);
  }

  async #problem(): Promise<string | undefined> {
    const { url: servers, token, checkMs: timeout } = this.#options;
    try {
      const connection = await connect({ servers, token, timeout, reconnect: false });
      try {
        const answer = await connection.request('$JS.API.INFO', '', { timeout });
        const { error } = answer.json<{ error?: { description?: string } }>();
        return error === undefined ? undefined : (error.description ?? 'it answers an error');
      } finally {
        await connection.close();
      }
    } catch (error) {
      return messageOf(error);
    }
  }
}
