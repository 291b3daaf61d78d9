"""λ against √(η/λ_wd): what optimizers spend, where the law puts λ, where it is going and why it moves."""
