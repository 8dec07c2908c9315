/** The demo's hosts: one as it comes, one that never parks ahead, one that never forks. */
import { HostProcess } from './host-process.ts';

export type HostKind = 'parking' | 'forking' | 'booting';

const argsOf: Record<HostKind, string[]> = {
  parking: ['--parked=4'],
  forking: ['--parked=0'],
  booting: ['--parked=0', '--fork=never'],
};
const uidBase = 1_000_000_000;
const rangesEach = 512;

/** Starts being made at once; whoever needs one waits for it. All end with `stop`. */
export class DemoHosts {
  readonly #starting = new Map<HostKind, Promise<HostProcess>>();

  get(kind: HostKind): Promise<HostProcess> {
    let starting = this.#starting.get(kind);
    if (starting === undefined) {
      const index = Object.keys(argsOf).indexOf(kind);
      starting = HostProcess.start({
        name: `demo-${kind}`,
        args: [
          ...argsOf[kind],
          `--host-name=demo-${kind}`,
          `--uid-base=${uidBase + index * rangesEach * 65_536}`,
          `--uid-ranges=${rangesEach}`,
          '--log-level=info',
        ],
      });
      // Who waits for it is told; an early failure must not end the process.
      starting.catch(() => undefined);
      this.#starting.set(kind, starting);
    }
    return starting;
  }

  async stop(): Promise<void> {
    await Promise.all(
      [...this.#starting.values()].map(async (starting) => {
        const host = await starting.catch(() => undefined);
        await host?.stop();
      }),
    );
  }
}
