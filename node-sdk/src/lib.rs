//! Join a hive, publish and subscribe.
