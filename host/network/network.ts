/**
 * The network of the functions that may go somewhere. Nothing of it exists until the first such
 * function asks. Then namespaces with an address wait in a stock; an instance is given one, and the
 * firewall lets its address do what its function may. Nothing is used twice but the address, whose
 * last owner's link must be gone first: the kernel destroys namespaces in the background, in
 * batches.
 */
import { closeSync } from 'node:fs';
import { HatchError, messageOf } from '../base/errors.ts';
import { ReadyStock } from '../base/ready-stock.ts';
import { AddressPool, type InstanceAddress, type Subnets } from './address-pool.ts';
import { Bridge, removeBridge } from './bridge.ts';
import { hostsFile, resolversFile, tcpPortsOf } from './egress.ts';
import type { FirewallDriver } from './firewall-driver.ts';
import { chooseDriver, driverOf } from './firewall.ts';
import { machineNameservers } from './nameservers.ts';
import { aliasOf, lockBridge, lockNetworks, otherBridges, settingsBefore } from './other-hosts.ts';
import { Policies, type HeldPolicy } from './policies.ts';
import {
  applySettings,
  readTraces,
  removeTraces,
  restoreSettings,
  wasNoRouter,
  writeTraces,
  type Traces,
} from './traces.ts';

export interface NetworkOptions {
  bridge: string;
  subnets: Subnets;
  firewall: 'auto' | FirewallDriver['name'];
  /** Undefined means those of the machine. */
  nameservers: readonly string[] | undefined;
  /** Where it is written down what to put back. */
  tracesFile: string;
  /** A network namespace with its loopback up. */
  makeNamespace: () => Promise<number>;
  onNotice: (message: string) => void;
}

/** What an instance is given of the network. */
export interface NetworkAccess {
  /** Open until `entered`. */
  namespaceFd: number;
  /** The contents of /etc/hosts and /etc/resolv.conf. */
  hosts: string;
  resolvers: string;
  /** Undefined: all. */
  connectTcpPorts: readonly number[] | undefined;
  /** The instance has the namespace's descriptor: it lives as long as the instance does. */
  entered(): void;
  /** Once no process of the instance is left. Twice is fine. */
  release(): void;
}

interface Endpoint {
  address: InstanceAddress;
  namespaceFd: number;
}

/** Enough for a burst; each costs the kernel some ten KiB. */
const endpointsReady = 16;
/** How many addresses are tried whose last owner may not be gone yet. */
const attachTriesMax = 64;

export class Network {
  readonly #options: NetworkOptions;
  #opening: Promise<OpenNetwork> | undefined;
  #description: string | undefined;
  #closed = false;

  /** Removes what a host that was killed has left. */
  static async open(options: NetworkOptions): Promise<Network> {
    const left = readTraces(options.tracesFile);
    if (left !== undefined) {
      await using _lock = await lockNetworks();
      removeBridge(left.bridge);
      await driverOf(left.driver, { ...options, dropForeign: wasNoRouter(left) }).close();
      restoreAsLast(left);
      removeTraces(options.tracesFile);
    }
    return new Network(options);
  }

  private constructor(options: NetworkOptions) {
    this.#options = options;
  }

  /** In the background, so that the first instance with this egress list need not wait. */
  prepare(egress: readonly string[]): void {
    if (egress.length === 0) return;
    this.#open()
      .then(async ({ policies }) => (await policies.hold(egress)).release())
      .catch((error: unknown) => this.#options.onNotice(messageOf(error)));
  }

  /**
   * At once when the list was prepared and an address is ready. Rejects with `host.unsupported`,
   * `host.start_failed` or, with all addresses taken, `host.busy`.
   */
  async connect(egress: readonly string[]): Promise<NetworkAccess> {
    const open = await this.#open();
    const held = await open.policies.hold(egress);
    try {
      const endpoint = open.stock.take() ?? (await open.makeEndpoint());
      return open.admit(endpoint, held);
    } catch (error) {
      held.release();
      throw error;
    }
  }

  /** How it is at present, in words; undefined as long as nobody needed it. */
  get description(): string | undefined {
    return this.#description;
  }

  /** When no instance is left. */
  async close(): Promise<void> {
    this.#closed = true;
    const open = await this.#opening?.catch(() => undefined);
    await open?.close();
  }

  async #open(): Promise<OpenNetwork> {
    if (this.#closed) throw new HatchError('host.draining', 'The host is stopping');
    this.#opening ??= OpenNetwork.open(this.#options).then(
      (open) => {
        this.#description = open.description;
        return open;
      },
      (error: unknown) => {
        // What was in the way may be mended by the next start.
        this.#opening = undefined;
        throw error;
      },
    );
    return this.#opening;
  }
}

class OpenNetwork {
  readonly policies: Policies;
  readonly stock: ReadyStock<Endpoint>;
  readonly description: string;
  readonly #options: NetworkOptions;
  readonly #driver: FirewallDriver;
  readonly #bridge: Bridge;
  readonly #addresses: AddressPool;
  #opened = new AsyncDisposableStack();

  static async open(options: NetworkOptions): Promise<OpenNetwork> {
    const { bridge, subnets, tracesFile } = options;
    await using opened = new AsyncDisposableStack();
    try {
      opened.use(await lockBridge(bridge));
      const driverName = await chooseDriver(options.firewall);
      const alias = aliasOf(tracesFile);
      await using _lock = await lockNetworks();
      const traces: Traces = { bridge, driver: driverName, settings: settingsBefore(bridge) };
      const dropForeign = wasNoRouter(traces);
      const driver = driverOf(driverName, { bridge, subnets, dropForeign });
      writeTraces(tracesFile, traces);
      opened.defer(() => removeTraces(tracesFile));
      opened.defer(() => driver.close());
      // Nothing flows before there are rules.
      await driver.open();
      const link = Bridge.open({ name: bridge, subnets, alias });
      opened.defer(async () => {
        // The lock of above is let go of before this.
        await using _lock = await lockNetworks();
        restoreAsLast(traces);
        link.close();
      });
      applySettings(traces);
      const open = new OpenNetwork({ options, driver, bridge: link });
      await open.stock.fill();
      open.#opened = opened.move();
      return open;
    } catch (cause) {
      if (cause instanceof HatchError && cause.code === 'host.config_invalid') throw cause;
      const message = `Cannot set up the network of functions: ${messageOf(cause)}`;
      throw new HatchError('host.unsupported', message, { cause });
    }
  }

  private constructor(opened: { options: NetworkOptions; driver: FirewallDriver; bridge: Bridge }) {
    const { options, driver } = opened;
    this.#options = options;
    this.#driver = driver;
    this.#bridge = opened.bridge;
    this.#addresses = new AddressPool(options.subnets);
    this.description = `bridge ${options.bridge}, firewall ${driver.name}`;
    const nameservers = options.nameservers ?? machineNameservers();
    this.policies = new Policies({ driver, nameservers, onNotice: options.onNotice });
    this.stock = new ReadyStock({
      name: 'connected networks',
      count: endpointsReady,
      make: () => this.makeEndpoint(),
      discard: (endpoint) => this.#discard(endpoint),
      onError: (error) => options.onNotice(messageOf(error)),
    });
  }

  async makeEndpoint(): Promise<Endpoint> {
    const namespaceFd = await this.#options.makeNamespace();
    try {
      return { namespaceFd, address: this.#attach(namespaceFd) };
    } catch (error) {
      closeSync(namespaceFd);
      throw error;
    }
  }

  admit({ address, namespaceFd }: Endpoint, held: HeldPolicy): NetworkAccess {
    const { policy } = held;
    try {
      this.#driver.admit(address, policy);
    } catch (error) {
      this.#discard({ address, namespaceFd });
      throw error;
    }
    let isOpen = true;
    const entered = (): void => {
      if (isOpen) closeSync(namespaceFd);
      isOpen = false;
    };
    let isHeld = true;
    return {
      namespaceFd,
      hosts: hostsFile(policy),
      resolvers: resolversFile(policy),
      connectTcpPorts: tcpPortsOf(policy),
      entered,
      release: () => {
        entered();
        if (!isHeld) return;
        isHeld = false;
        held.release();
        this.#dismiss(address, policy);
      },
    };
  }

  async close(): Promise<void> {
    await this.stock.close();
    await this.policies.idle();
    await this.#opened.disposeAsync();
  }

  /** An address that is still admitted is nobody's any more. */
  #dismiss(address: InstanceAddress, policy: HeldPolicy['policy']): void {
    try {
      this.#driver.dismiss(address, policy);
      this.#addresses.release(address);
    } catch (error) {
      this.#options.onNotice(`An address is lost: ${messageOf(error)}`);
    }
  }

  #attach(namespaceFd: number): InstanceAddress {
    for (let tries = 0; tries < attachTriesMax; tries++) {
      const address = this.#addresses.take();
      if (address === undefined) break;
      if (this.#tryAttach(namespaceFd, address)) return address;
      this.#addresses.release(address);
    }
    throw new HatchError('host.busy', 'All addresses of "networkIpv4" are taken: enlarge it');
  }

  #tryAttach(namespaceFd: number, address: InstanceAddress): boolean {
    try {
      return this.#bridge.attach(namespaceFd, address);
    } catch (error) {
      this.#addresses.release(address);
      throw error;
    }
  }

  #discard({ address, namespaceFd }: Endpoint): void {
    closeSync(namespaceFd);
    this.#addresses.release(address);
  }
}

/** Whoever is left needs forwarding, and has noted what to restore. */
function restoreAsLast(traces: Traces): void {
  if (otherBridges(traces.bridge).size === 0) restoreSettings(traces);
}
