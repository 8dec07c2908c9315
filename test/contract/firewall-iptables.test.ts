import { IptablesDriver } from '../../host/network/iptables.ts';
import { leaveMachineNetwork } from '../support/test-network.ts';
import { firewallContract } from './firewall.ts';

leaveMachineNetwork();
firewallContract((options) => new IptablesDriver(options));
