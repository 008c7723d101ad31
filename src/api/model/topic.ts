// Event topics and envelopes, checked where they enter: from clients over gRPC, from shims over ttrpc.
import type { Envelope } from '../proto/gen/types/event.ts';
import { fail } from './errors.ts';
import { checkIdentifier } from './ids.ts';

export const topicLengthMax = 4096;

/** Throws `invalid-argument` unless `topic` is one or more identifiers, each after a slash. */
export function checkTopic(topic: string): void {
  if (topic.length > topicLengthMax) {
    throw fail('invalid-argument', `topic is longer than ${topicLengthMax} characters`);
  }
  if (!topic.startsWith('/')) {
    throw fail('invalid-argument', `topic ${JSON.stringify(topic)} must start with "/"`);
  }
  for (const component of topic.slice(1).split('/')) {
    try {
      checkIdentifier(component, 'topic component');
    } catch (error) {
      throw fail('invalid-argument', `topic ${JSON.stringify(topic)}: ${(error as Error).message}`, error);
    }
  }
}

/** Throws `invalid-argument` unless a forwarded envelope has a namespace, a topic and an event. */
export function checkEnvelope(envelope: Envelope | undefined): asserts envelope is Envelope {
  if (envelope === undefined) throw fail('invalid-argument', 'the request has no envelope');
  checkIdentifier(envelope.namespace, 'envelope namespace');
  checkTopic(envelope.topic);
  if (envelope.event === undefined) {
    throw fail('invalid-argument', `envelope of topic ${envelope.topic} has no event`);
  }
}
