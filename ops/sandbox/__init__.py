"""The provider sandbox: speaks the providers' protocols, draws, bills and misbehaves offline."""
