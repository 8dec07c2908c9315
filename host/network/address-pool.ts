/**
 * The addresses of instances: each has a number, and of it follow its IPv4 address, its IPv6
 * address and its hardware address. The gateway is number 1.
 */
import type { Subnet } from './subnet.ts';

export interface InstanceAddress {
  number: number;
  /** Six bytes. */
  mac: Buffer;
  /** 4 bytes. */
  ipv4: Buffer;
  /** 16 bytes. */
  ipv6: Buffer;
}

/** Both protocols count in the last bytes of their addresses. */
export interface Subnets {
  /** Between /16 and /29. */
  ipv4: Subnet;
  /** At most /112. */
  ipv6: Subnet;
}

const gatewayNumber = 1;

export function gatewayOf(subnets: Subnets): InstanceAddress {
  return addressOf(subnets, gatewayNumber);
}

export class AddressPool {
  readonly #subnets: Subnets;
  readonly #last: number;
  #next = gatewayNumber + 1;
  /** Oldest first: what still comes in for an earlier owner has stopped by then. */
  readonly #released: number[] = [];
  readonly #taken = new Set<number>();

  constructor(subnets: Subnets) {
    this.#subnets = subnets;
    // The last address is for broadcast.
    this.#last = 2 ** (32 - subnets.ipv4.prefixLength) - 2;
  }

  /** One that nobody has, and nobody had for as long as possible; undefined when all are taken. */
  take(): InstanceAddress | undefined {
    const number = this.#next <= this.#last ? this.#next++ : this.#released.shift();
    if (number === undefined) return undefined;
    this.#taken.add(number);
    return addressOf(this.#subnets, number);
  }

  /** Only once nothing on this host answers to it any more. */
  release({ number }: InstanceAddress): void {
    if (this.#taken.delete(number)) this.#released.push(number);
  }
}

function addressOf({ ipv4, ipv6 }: Subnets, number: number): InstanceAddress {
  const v4 = Buffer.from(ipv4.address);
  v4.writeUInt32BE(v4.readUInt32BE(0) + number);
  const v6 = Buffer.from(ipv6.address);
  v6.writeUInt16BE(number, 14);
  // Locally administered, and different wherever the IPv4 address is.
  const mac = Buffer.concat([Buffer.from([0x02, 0x48]), v4]);
  return { number, mac, ipv4: v4, ipv6: v6 };
}
